"""The header `Range`: one range of bytes, as browsers and download programs ask for; anything else is answered with the whole."""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """From `start` up to `end`, which is not part of it."""

    start: int
    end: int


def requested_span(header: str | None, *, num_bytes: int) -> ByteSpan | None:
    """What is asked for; None for the whole, also where the header is none that we read (RFC 9110 lets a server ignore it).

    Raises `ValueError` for a range that begins behind the end.
    """
    found = _ONE_RANGE.fullmatch((header or "").strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        last_bytes = min(int(found[2]), num_bytes)
        if not last_bytes:
            raise ValueError("the last no bytes")
        return ByteSpan(num_bytes - last_bytes, num_bytes)
    start, end = int(found[1]), int(found[2]) + 1 if found[2] else num_bytes
    if start >= num_bytes:
        raise ValueError("behind the end")
    return None if end <= start else ByteSpan(start, min(end, num_bytes))
