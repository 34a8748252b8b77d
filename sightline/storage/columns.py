"""Column types that hold the same values on SQLite and on PostgreSQL."""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

BIG_INTEGER = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits on both; SQLite makes a key its row number only when the type is called INTEGER."""

JSON_OBJECT = JSON().with_variant(JSONB(), "postgresql")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_STORED_BYTE = re.compile("[\U0010ff80-\U0010ffff]")
_SURROGATE_TO_PRIVATE_USE = 0x10FF00 - 0xDC00
_SUSPICIOUS_JSON = re.compile(r"\\u0000|\\ud[89a-f]", re.IGNORECASE)


class UtcDateTime(TypeDecorator[datetime]):
    """An instant, always aware and in UTC; SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """What the database is given."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        """What it was before it was stored."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class PathText(TypeDecorator[str]):
    """A file name as Python has it: bytes that are no UTF-8 arrive as lone surrogates, which no database takes.

    They are stored as the last 128 code points of the private use area (U+10FF80 to U+10FFFF) and come back as they were.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """What the database is given."""
        if value is None or value.isascii():
            return value
        return _ESCAPED_BYTE.sub(lambda found: chr(ord(found[0]) + _SURROGATE_TO_PRIVATE_USE), value)

    def process_result_value(self, value: str | None, _dialect: Dialect) -> str | None:
        """What it was before it was stored."""
        if value is None or value.isascii():
            return value
        return _STORED_BYTE.sub(lambda found: chr(ord(found[0]) - _SURROGATE_TO_PRIVATE_USE), value)


def storable_text(text: str) -> str:
    """`text` with what PostgreSQL refuses (NUL) or no encoding has (lone surrogates) replaced by U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


class CleanText(TypeDecorator[str]):
    """Text from captions and messages, which may hold anything; see `storable_text`."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        """What the database is given."""
        return None if value is None else storable_text(value)


def storable_json(value: Any) -> str:
    """`value` as JSON that both databases take: NaN and infinities become null, strings go through `storable_text`."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = ""
    if text and not _SUSPICIOUS_JSON.search(text):
        return text
    return json.dumps(_clean(value), allow_nan=False, separators=(",", ":"))


def _clean(value: Any) -> Any:
    match value:
        case str():
            return storable_text(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {storable_text(str(name)): _clean(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_clean(inner) for inner in value]
        case _:
            return value
