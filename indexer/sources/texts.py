"""A corpus of texts, each an item of modality text: JSON lines, CSV or Parquet with a column `text`, or plain lines.

A line of JSON may also be a string, or a list of strings of which each is an item. Every other column is metadata.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from indexer.sources.description import clean_json, clean_text
from indexer.sources.rows import (
    JSONL_SUFFIXES,
    TABLE_SUFFIXES,
    BadRow,
    Row,
    column_names,
    read_lines,
    read_table,
    table_suffix,
    told_columns,
)
from indexer.sources.source import BrokenInput, Hidden, Scanned, SourceItem
from sightline.errors import InvalidSource
from sightline.types import JsonObject, Modality

_TEXT = "text"


class TextsSource:
    """The texts of one file, in order; keys are the file's name and the line, `notes.txt:12`."""

    def __init__(self, path: Path) -> None:
        """Raises `InvalidSource` where the file cannot be read, or is a table without a column `text`, naming those it has."""
        self._path = path.resolve()
        self._is_table = table_suffix(self._path) in TABLE_SUFFIXES
        if not self._is_table:
            next(read_lines(self._path), None)
            return
        names = column_names(self._path)
        may_hold_plain_strings = table_suffix(self._path) in JSONL_SUFFIXES and not names
        if _TEXT not in names and not may_hold_plain_strings:
            raise InvalidSource(f"{self._path} has no column {_TEXT!r}; {told_columns(names)}")

    @property
    def name(self) -> str:
        """The absolute path."""
        return os.fspath(self._path)

    @property
    def roots(self) -> tuple[str, ...]:
        """The absolute path."""
        return (self.name,)

    def scan(self) -> Iterator[Scanned]:
        """Blank lines are nothing."""
        for row in read_table(self._path) if self._is_table else read_lines(self._path):
            if isinstance(row, BadRow):
                # A line of JSON may have held several texts, and a row of CSV several lines; a plain line is one text.
                hides = Hidden.SOURCE if self._is_table else Hidden.NONE
                yield BrokenInput(self.name, self._key(row.number), clean_text(row.cause), hides=hides)
            else:
                yield from self._read(row)

    def _read(self, row: Row) -> Iterator[Scanned]:
        match row.value:
            case str():
                yield from self._items(row.number, (row.value,), {})
            case {"text": str(text), **others}:
                metadata = {name: value for name, value in others.items() if value is not None and value != ""}
                yield from self._items(row.number, (text,), clean_json(metadata))
            case list() if all(isinstance(text, str) for text in row.value):
                yield from self._items(row.number, tuple(row.value), {})
            case _:
                yield self._broken(row.number, f"the row has no text ({_shortened(row.value)})")

    def _items(self, number: int, texts: tuple[str, ...], metadata: JsonObject) -> Iterator[SourceItem | BrokenInput]:
        for place, raw_text in enumerate(texts, start=1):
            text = clean_text(raw_text).strip()
            if not text:
                if self._is_table:
                    yield self._broken(number, "the text is empty")
                continue
            yield SourceItem(
                source=self.name,
                key=self._key(number) if len(texts) == 1 else f"{self._key(number)}.{place}",
                modality=Modality.TEXT,
                size_bytes=len(text.encode()),
                mtime_ns=0,
                text=text,
                metadata=metadata,
            )

    def _key(self, number: int) -> str:
        return f"{self._path.name}:{number}"

    def _broken(self, number: int, cause: str) -> BrokenInput:
        return BrokenInput(self.name, self._key(number), clean_text(cause))


def _shortened(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
