"""One item as it is sent, checked: a line of JSON, or a part of a form with what was said of it."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from api.http.content_types import require_picture_type
from indexer.sources.description import clean_json, clean_text
from sightline.errors import InvalidRequest, RequestTooLarge
from sightline.types import JsonObject

MAX_KEY_CHARACTERS = 1024
MAX_TEXT_CHARACTERS = 100_000
MAX_METADATA_BYTES = 100_000
MAX_METADATA_DEPTH = 32
_MAX_DIGITS = 1000
_UNSTORABLE = "a NUL or half of a surrogate pair, which not every database keeps"
_FIELDS = frozenset({"key", "text", "image", "caption", "metadata"})


@dataclass(frozen=True, slots=True)
class Entry:
    """An item, with its picture as it was given."""

    key: str
    text: str | None = None  # the text, or the picture's caption
    metadata: JsonObject = field(default_factory=dict)
    picture_bytes: bytes | None = None  # of a data URI
    picture_url: str | None = None


def parse_line(line: bytes, *, max_picture_bytes: int) -> Entry:
    """A line of JSON: `{"key", "text"}` or `{"key", "image", "caption", "metadata"}`, `image` being a data URI or an address.

    Raises `InvalidRequest` with what is wrong with it, or its `UnsupportedMediaType`.
    """
    try:
        fields = strict_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the line is not JSON (it is not UTF-8 text: byte {error.start:,})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the line is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InvalidRequest(f"the line holds a JSON {type(fields).__name__}; expected an object")
    unknown = sorted(fields.keys() - _FIELDS)
    if unknown:
        raise InvalidRequest(f"unknown field {unknown[0]!r}; expected {', '.join(sorted(_FIELDS))}")
    image, text, caption = fields.get("image"), fields.get("text"), fields.get("caption")
    if (image is None) == (text is None) or (image is None and caption is not None):
        raise InvalidRequest("expected either a text or an image, and a caption with an image only")
    content, url = (None, None) if image is None else _picture(image, max_bytes=max_picture_bytes)
    key = fields.get("key")
    if key is None and url is not None:
        key = url
    return Entry(checked_key(key), checked_text(text if image is None else caption), checked_metadata(fields.get("metadata")), content, url)


def strict_json(text: str) -> Any:
    """What JSON says, where all of its numbers are numbers. Raises `ValueError` with what is wrong, `RecursionError`."""
    return json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_not_too_long)


def key_of_line(line: bytes) -> str | None:
    """The key that a line gives its item, whatever else is wrong with it; None where it gives none, or the line cannot be read."""
    try:
        return checked_key(json.loads(line)["key"])
    except (ValueError, RecursionError, TypeError, KeyError, InvalidRequest):
        return None


def checked_key(key: object) -> str:
    """Raises `InvalidRequest` for what is no key: it names no file, but what looks like a way out of a folder is nobody's name."""
    if not isinstance(key, str) or not key.strip():
        raise InvalidRequest("the key is missing; expected a text that names the item in its collection")
    if len(key) > MAX_KEY_CHARACTERS or not key.isprintable() or key != clean_text(key):
        raise InvalidRequest(f"{key[:80]!r} is no key: expected at most {MAX_KEY_CHARACTERS:,} printable characters")
    parts = key.replace("\\", "/").split("/")
    if ".." in parts or "\\" in key or (key.startswith("/") and "://" not in key):
        raise InvalidRequest(f"{key!r} is no key: expected a name or a relative path without '..'")
    return key


def checked_text(text: object) -> str | None:
    """Raises `InvalidRequest`."""
    if text is None:
        return None
    if not isinstance(text, str) or not clean_text(text).strip():
        raise InvalidRequest("the text is empty, or no text")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidRequest(f"the text has {len(text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are taken")
    if clean_text(text) != text:
        raise InvalidRequest(f"the text holds {_UNSTORABLE}")
    return text.strip()


def checked_metadata(metadata: object) -> JsonObject:
    """Raises `InvalidRequest`."""
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InvalidRequest(f"the metadata are a JSON {type(metadata).__name__}; expected an object")
    if _depth(metadata) > MAX_METADATA_DEPTH:
        raise InvalidRequest(f"the metadata are nested deeper than {MAX_METADATA_DEPTH} levels")
    cleaned: JsonObject = clean_json(metadata)
    if cleaned != metadata:
        raise InvalidRequest(f"the metadata hold {_UNSTORABLE}")
    if len(json.dumps(cleaned)) > MAX_METADATA_BYTES:
        raise InvalidRequest(f"the metadata have more than {MAX_METADATA_BYTES:,} bytes")
    return cleaned


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted without recursion."""
    depth, level = 0, [value]
    while level:
        level = [inner for each in level for inner in _inside(each)]
        depth += 1
    return depth


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is larger than any number that is kept")
    return number


def _not_too_long(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits; at most {_MAX_DIGITS:,} are taken")
    return int(digits)


def _picture(image: object, *, max_bytes: int) -> tuple[bytes | None, str | None]:
    if not isinstance(image, str):
        raise InvalidRequest("the image is no text; expected a data URI or an address")
    if not image.lower().startswith("data:"):
        scheme = urlsplit(image).scheme if len(image) < 4096 and image.isprintable() else ""
        if scheme not in ("http", "https"):
            raise InvalidRequest("the image is neither a data URI (data:image/png;base64,...) nor an address (https://...)")
        return None, image
    head, comma, body = image[5:].partition(",")
    if not comma:
        raise InvalidRequest("the image is a data URI without a comma; expected data:image/png;base64,...")
    if len(body) > 2 * max_bytes:
        raise RequestTooLarge(f"the picture has more than the {max_bytes:,} bytes that are taken")
    require_picture_type(head, of="the image")
    return _decoded(head, body), None


def _decoded(head: str, body: str) -> bytes:
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        padded = body.replace("-", "+").replace("_", "/")
        return base64.b64decode(padded + "=" * (-len(padded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"the image is a data URI whose base64 cannot be decoded ({error})") from error
