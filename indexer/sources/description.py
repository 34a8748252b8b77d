"""Captions and metadata: out of sidecar files, rows and members, into what both databases can hold."""

import datetime
import decimal
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sightline.types import JsonObject

MAX_DESCRIPTION_BYTES = 1_000_000
"""A sidecar file or member above this is something else than a caption."""

CAPTION_FIELDS = ("caption", "captions")


class InvalidDescription(ValueError):
    """A caption or metadata file that cannot be read; the message is the cause without the file's name."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of an item besides its content."""

    captions: tuple[str, ...] = ()
    metadata: JsonObject = field(default_factory=dict)

    @property
    def text(self) -> str | None:
        """The captions, one a line."""
        return "\n".join(self.captions) or None

    def joined(self, other: "Description") -> "Description":
        """The captions of both in order, each once; metadata of `other` wins."""
        captions = tuple(dict.fromkeys(self.captions + other.captions))
        return Description(captions=captions, metadata={**self.metadata, **other.metadata})


def description_of_text(content: bytes) -> Description:
    """Each line that is not blank is a caption. Raises `InvalidDescription`."""
    lines = (clean_text(line).strip() for line in decoded_text(content).splitlines())
    return Description(captions=tuple(line for line in lines if line))


def description_of_json(content: bytes) -> Description:
    """`caption` or `captions` (a string or a list of strings), the rest is metadata. Raises `InvalidDescription`."""
    try:
        fields = json.loads(decoded_text(content))
    except (ValueError, RecursionError) as error:
        raise InvalidDescription(f"it is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InvalidDescription(f"it holds a JSON {type(fields).__name__} where an object with captions and metadata is wanted")
    return description_of_fields(fields)


def description_of_fields(fields: Mapping[str, Any]) -> Description:
    """Captions and metadata of a row or a JSON object; values that are None or empty strings count as absent."""
    captions = [caption for name in CAPTION_FIELDS for caption in _captions(fields.get(name))]
    metadata = {name: value for name, value in fields.items() if name not in CAPTION_FIELDS and value is not None and value != ""}
    return Description(captions=tuple(captions), metadata=clean_json(metadata))


def _captions(value: object) -> Iterable[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [clean_text(caption).strip() for caption in values if isinstance(caption, str) and caption.strip()]


def decoded_text(content: bytes) -> str:
    """UTF-8 with or without a byte order mark. Raises `InvalidDescription`."""
    if len(content) > MAX_DESCRIPTION_BYTES:
        raise InvalidDescription(f"it has {len(content):,} bytes, more than the {MAX_DESCRIPTION_BYTES:,} that a description may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidDescription(f"it is not UTF-8 text (byte {error.start:,})") from error


def clean_text(text: str) -> str:
    """Without what PostgreSQL cannot hold: NUL is dropped, half a surrogate pair becomes a question mark."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def clean_json(value: Any) -> Any:
    """`value` as JSON that every database holds: no NaN or infinity, no NUL; dates, decimals and the like as text."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return clean_text(value)
        case Mapping():
            return {clean_text(str(name)): clean_json(element) for name, element in value.items()}
        case list() | tuple() | set() | frozenset():
            return [clean_json(element) for element in value]
        case bytes():
            return value.hex()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return clean_json(float(value))
        case _:
            return clean_text(str(value))


def description_hash(text: str | None, metadata: JsonObject) -> str:
    """16 hex digits that change when caption or metadata do; empty for an item that has neither."""
    if not text and not metadata:
        return ""
    canonical = json.dumps([text, metadata], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
