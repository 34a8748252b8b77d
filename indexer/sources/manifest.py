"""A table that names pictures or holds texts: CSV, JSON lines or Parquet, one item a row.

`path` (relative to the manifest's folder, or absolute) makes a row a picture, `text` a text; a row with both is a picture
with that text as its caption. `caption` or `captions` are captions, every other column is metadata. Rows that follow each
other and name the same picture are one item with all their captions, as many public caption sets have it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from indexer.sources.description import Description, clean_text, description_of_fields
from indexer.sources.rows import BadRow, Row, column_names, read_table, told_columns
from indexer.sources.source import BrokenInput, ByteRange, Hidden, Scanned, SourceItem
from sightline.errors import InvalidSource
from sightline.types import JsonObject, Modality

_PATH = "path"
_TEXT = "text"


@dataclass(frozen=True, slots=True)
class _PictureRow:
    number: int
    path: str  # as written
    description: Description


@dataclass(frozen=True, slots=True)
class _TextRow:
    number: int
    text: str
    metadata: JsonObject


class ManifestSource:
    """The rows of one file, in order."""

    def __init__(self, path: Path) -> None:
        """Raises `InvalidSource` where the file cannot be read or has neither of the two columns, naming those that it has."""
        self._path = path.resolve()
        names = column_names(self._path)
        if _PATH not in names and _TEXT not in names:
            raise InvalidSource(f"{self._path} has no column {_PATH!r} and no column {_TEXT!r}; {told_columns(names)}")

    @property
    def name(self) -> str:
        """The absolute path."""
        return os.fspath(self._path)

    @property
    def roots(self) -> tuple[str, ...]:
        """The absolute path."""
        return (self.name,)

    def scan(self) -> Iterator[Scanned]:
        """A picture that was named before, other than in the row just above, is a bad row."""
        seen: set[int] = set()  # of hashes: a million paths would take some 100 MB
        rows = (self._read(row) for row in read_table(self._path))
        for path, group in groupby(rows, key=lambda row: row.path if isinstance(row, _PictureRow) else None):
            if path is None:
                yield from (self._text_item(row) if isinstance(row, _TextRow) else row for row in group if not isinstance(row, _PictureRow))
                continue
            picture = _joined(row for row in group if isinstance(row, _PictureRow))
            key = self._key_of_path(path)
            if hash(key) in seen:
                yield self._broken(picture.number, f"names {path} again, which an earlier row did already")
                continue
            seen.add(hash(key))
            yield self._picture_item(key, picture)

    def _read(self, row: Row | BadRow) -> _PictureRow | _TextRow | BrokenInput:
        if isinstance(row, BadRow):
            return self._unread(row.number, row.cause)
        if not isinstance(row.value, dict):
            return self._unread(row.number, f"the row is a JSON {type(row.value).__name__}, not an object")
        fields: dict[str, Any] = dict(row.value)
        path, text = fields.pop(_PATH, None), fields.pop(_TEXT, None)
        for name, value in ((_PATH, path), (_TEXT, text)):
            if value is not None and not isinstance(value, str):
                return self._unread(row.number, f"{name} is {value!r}, not a string")
        path, text = (path or "").strip(), clean_text(text or "").strip()
        description = description_of_fields(fields)
        if not path and not text:
            return self._unread(row.number, f"the row has neither {_PATH} nor {_TEXT}")
        if not path:
            captions = {"captions": list(description.captions)} if description.captions else {}
            return _TextRow(row.number, text, {**description.metadata, **captions})
        if "://" in path:
            return self._broken(row.number, f"{path} is a URL; only files are read")
        if text and not description.captions:
            description = Description(captions=(text,), metadata=description.metadata)
        return _PictureRow(row.number, path, description)

    def _text_item(self, row: _TextRow) -> SourceItem:
        return SourceItem(
            source=self.name,
            key=self._key_of_row(row.number),
            modality=Modality.TEXT,
            size_bytes=len(row.text.encode()),
            mtime_ns=0,
            text=row.text,
            metadata=row.metadata,
        )

    def _picture_item(self, key: str, row: _PictureRow) -> SourceItem | BrokenInput:
        path = self._path.parent / key
        try:
            key.encode()
            status = path.stat()
        except (OSError, ValueError) as error:  # ValueError: a NUL or half a surrogate pair in the path
            reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
            return BrokenInput(self.name, _printable(key), f"row {row.number}: {reason}", error_class="UnreadableImage")
        return SourceItem(
            source=self.name,
            key=key,
            modality=Modality.IMAGE,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            text=row.description.text,
            metadata=row.description.metadata,
            content=ByteRange(path),
        )

    def _key_of_path(self, path: str) -> str:
        """Relative to the manifest's folder where it is below it, else absolute: one key however it is written."""
        folder = os.fspath(self._path.parent)
        absolute = os.path.normpath(os.path.join(folder, os.path.expanduser(path)))  # noqa: PTH111, PTH118  pathlib keeps `..`
        below = os.path.join(folder, "")  # noqa: PTH118  with the slash that pathlib drops
        return (absolute.removeprefix(below) if absolute.startswith(below) else absolute).replace(os.sep, "/")

    def _key_of_row(self, number: int) -> str:
        return f"{self._path.name}:{number}"

    def _unread(self, number: int, cause: str) -> BrokenInput:
        """A row of which nobody can tell what picture it names."""
        return BrokenInput(self.name, self._key_of_row(number), _printable(cause), hides=Hidden.SOURCE)

    def _broken(self, number: int, cause: str) -> BrokenInput:
        return BrokenInput(self.name, self._key_of_row(number), _printable(cause))


def _joined(rows: Iterator[_PictureRow]) -> _PictureRow:
    """Rows of one picture as one: all captions, metadata of the first row that has the column."""
    first = next(rows)
    description = first.description
    for row in rows:
        together = description.joined(row.description)
        description = Description(captions=together.captions, metadata={**row.description.metadata, **description.metadata})
    return _PictureRow(first.number, first.path, description)


def _printable(text: str) -> str:
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
