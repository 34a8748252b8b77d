"""A form with many pictures, taken apart while it arrives: each part goes to a file of its own and is hashed on the way.

Nothing of a part but its headers and, of a field, a bounded text is in memory, however large the form is.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.http.uploads.batches import Batch, SentPart
from api.http.uploads.entries import checked_key, checked_metadata, checked_text, strict_json
from sightline.errors import InvalidRequest, RequestTooLarge
from sightline.storage.sealed_files import sync_and_close, translated_disk_errors

MAX_PARTS = 10_000
_MAX_FIELD_BYTES = 20_000_000
_MAX_HEADER_BYTES = 8_192
_DETAIL_FIELDS = frozenset({"key", "caption", "metadata"})


@dataclass(slots=True)
class _Part:
    """The part that arrives."""

    name: str
    file_name: str | None
    content_type: str | None
    num_bytes: int = 0
    text: bytearray = field(default_factory=bytearray)
    file: IO[bytes] | None = None
    path: Path | None = None
    is_too_large: bool = False
    digest: Any = field(default_factory=hashlib.sha256)


class FormReceiver:
    """Takes a form into a batch: `feed` what arrives, then `finish`; `close` in any case."""

    def __init__(self, batch: Batch, content_type: str, *, max_picture_bytes: int) -> None:
        """Raises `InvalidRequest` for a content type without a boundary."""
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary or len(boundary) > 200:
            raise InvalidRequest("multipart/form-data without a boundary; what sends the form has to say what stands between its parts")
        self._batch = batch
        self._max_picture_bytes = max_picture_bytes
        self._parts: list[SentPart] = []
        self._details: list[Any] | None = None
        self._part: _Part | None = None
        self._header_name, self._header_value = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    def feed(self, content: bytes) -> None:
        """The next bytes. Raises `InvalidRequest`, `OutOfSpace`."""
        try:
            with translated_disk_errors(self._batch.folder):
                self._parser.write(content)
        except FormParserError as error:
            raise InvalidRequest(f"the form cannot be read ({error})") from error

    def finish(self) -> None:
        """Write the list of parts. Raises `InvalidRequest` for a form that was cut short, holds no picture, or details of others."""
        if not self._is_whole:
            raise InvalidRequest("the form is cut short: its last boundary did not arrive; send it again")
        if not self._parts:
            raise InvalidRequest("the form holds no picture; expected parts with a file name")
        self._batch.write_parts(_described(self._parts, self._details))

    def close(self) -> None:
        """Let go of a file that is half received."""
        if self._part is not None and self._part.file is not None:
            self._part.file.close()

    def _on_part_begin(self) -> None:
        self._headers = {}
        if len(self._parts) >= MAX_PARTS:
            raise InvalidRequest(f"the form has more than {MAX_PARTS:,} parts; send it in several")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._check_header()

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header_name) + len(self._header_value) > _MAX_HEADER_BYTES or len(self._headers) > 32:
            raise InvalidRequest("a part of the form has headers that are too long")

    def _on_header_end(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = self._header_value.decode("utf-8", "replace")
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        disposition = Message()
        disposition["Content-Disposition"] = self._headers.get("content-disposition", "")
        name = disposition.get_param("name", header="Content-Disposition")
        self._part = _Part(str(name or ""), disposition.get_filename(), self._headers.get("content-type"))
        if self._part.file_name is not None:
            self._part.path = self._batch.folder / f"part-{len(self._parts):05}"
            self._part.file = self._part.path.open("xb")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part, content = self._part, data[start:end]
        assert part is not None
        part.num_bytes += len(content)
        if part.file is None:
            if part.num_bytes > _MAX_FIELD_BYTES:
                raise RequestTooLarge(f"the field {part.name[:80]!r} has more than {_MAX_FIELD_BYTES:,} bytes")
            part.text += content
        elif part.num_bytes <= self._max_picture_bytes:
            part.file.write(content)
            part.digest.update(content)
        else:
            part.is_too_large = True

    def _on_part_end(self) -> None:
        part, self._part = self._part, None
        assert part is not None
        if part.file is None or part.path is None:
            self._take_field(part)
            return
        sync_and_close(part.file)
        self._parts.append(self._received(part, part.path))

    def _received(self, part: _Part, path: Path) -> SentPart:
        received = SentPart(part.file_name or "", path.name, part.digest.hexdigest(), part.num_bytes, content_type=part.content_type)
        if part.is_too_large:
            error = f"it has {part.num_bytes:,} bytes; a picture may have {self._max_picture_bytes:,}"
            path.unlink()
            return replace(received, error=error)
        return received if part.num_bytes else replace(received, error="the file is empty")

    def _take_field(self, part: _Part) -> None:
        if part.name != "details":
            raise InvalidRequest(f"the form has a field {part.name[:80]!r}; expected files, and at most one field named details")
        if self._details is not None:
            raise InvalidRequest("the form has more than one field named details; expected one list, with an object for each file")
        try:
            details = strict_json(part.text.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"the field details is not JSON ({error})") from error
        if not isinstance(details, list):
            raise InvalidRequest("the field details is no list; expected an object for each file, in their order")
        self._details = details

    def _on_end(self) -> None:
        self._is_whole = True


def _described(parts: Sequence[SentPart], details: Sequence[Any] | None) -> list[SentPart]:
    if details is None:
        details = [{}] * len(parts)
    if len(details) != len(parts):
        raise InvalidRequest(f"details for {len(details):,} files, and {len(parts):,} files were sent; expected as many, in their order")
    return [_with_details(part, given) for part, given in zip(parts, details, strict=True)]


def _with_details(part: SentPart, given: Any) -> SentPart:
    try:
        if not isinstance(given, dict) or given.keys() - _DETAIL_FIELDS:
            raise InvalidRequest(f"its details are {str(given)[:80]!r}; expected an object with {', '.join(sorted(_DETAIL_FIELDS))}")
        key = checked_key(given.get("key", part.key))
        return replace(part, key=key, caption=checked_text(given.get("caption")), metadata=checked_metadata(given.get("metadata")))
    except InvalidRequest as error:
        return replace(part, error=part.error or str(error))
