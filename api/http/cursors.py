"""Cursors: a `Place` of an answer as a string that a client keeps and sends with the same query to get the next page.

A cursor carries all that the next page needs, so that the service keeps nothing and a restart loses nothing. A digest of its bytes refuses
what was altered, and one of the query refuses a cursor of another search. Neither is a secret: a cursor opens nothing that its bearer could
not search for anyway, and what it says is bounded where it is read.
"""

import base64
import binascii
import hashlib
import math
import struct
from collections.abc import Iterator

from PIL import Image

from search.paging import MAX_SHOWN, Ahead, Place
from search.query import GivenEmbedding, LikeItem, Picture, Query, Words
from search.rerank import MAX_DEPTH, Reranking
from sightline.errors import InvalidRequest
from sightline.types import CollectionId, ItemId

MAX_CURSOR_CHARACTERS = 200_000
"""More than the largest place takes: 10,000 shown items of three bytes and a second look of 10,000."""

_PERSON = b"sightline cursor"  # BLAKE2's parameter that keeps digests for one purpose from being good for another
_DIGEST_BYTES = 12
_HAS_TAIL, _HAS_SECOND_LOOK = 1, 2
_PROBABILITY = struct.Struct("<f")
_MAX_VARINT_BYTES = 9  # 63 bits, as item ids have


def encode_cursor(place: Place, *, query_digest: bytes) -> str:
    """The place as URL-safe characters."""
    body = bytearray(query_digest)
    flags = _HAS_TAIL * place.has_tail + _HAS_SECOND_LOOK * place.has_second_look
    shown = sorted(place.shown)
    gaps = [after - before for before, after in zip([0, *shown], shown, strict=False)]
    for number in (flags, place.newest_id, len(shown), *gaps, len(place.ahead)):
        _append_varint(body, number)
    for each in place.ahead:
        _append_varint(body, each.item_id)
        _append_varint(body, each.first_rank)
        body += _PROBABILITY.pack(math.nan if each.match_probability is None else each.match_probability)
    return base64.urlsafe_b64encode(_digest(bytes(body)) + body).rstrip(b"=").decode()


def decode_cursor(cursor: str, *, query_digest: bytes) -> Place:
    """Raises `InvalidRequest` for what `encode_cursor` has not made, or made for another query."""
    content = _checked_content(cursor)
    if content[: len(query_digest)] != query_digest:
        raise InvalidRequest("the cursor belongs to another search; send it with the query, filters and collection that it came from")
    try:
        return _place(content[len(query_digest) :])
    except (IndexError, struct.error, ValueError) as error:
        raise _altered() from error


def digest_of_search(query: Query, collection_id: CollectionId, reranking: Reranking | None) -> bytes:
    """Tells searches apart by what decides the order of their hits."""
    said = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=_PERSON)
    look = None if reranking is None else (reranking.depth, reranking.min_match)
    said.update(repr((collection_id, query.modality, look)).encode())
    for part in query.parts:
        said.update(repr((type(part).__name__, part.weight)).encode())
        said.update(hashlib.sha256(_content(part)).digest())
    return said.digest()


def _content(part: Words | Picture | LikeItem | GivenEmbedding) -> bytes:
    match part:
        case Words():
            return part.text.encode()
        case LikeItem():
            return part.key.encode(errors="surrogatepass")
        case GivenEmbedding():
            return part.modality.encode() + part.embedding.tobytes()
        case Picture(bytes() as source):
            return source
        case Picture(source):
            return repr(source.size).encode() + source.tobytes() if isinstance(source, Image.Image) else str(source).encode()


def _checked_content(cursor: str) -> bytes:
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _altered() from error
    digest, content = packed[:_DIGEST_BYTES], packed[_DIGEST_BYTES:]
    is_ours = base64.urlsafe_b64encode(packed).rstrip(b"=").decode() == cursor  # there are several spellings of the last bits
    if not is_ours or digest != _digest(content):
        raise _altered()
    return content


def _place(content: bytes) -> Place:
    numbers = iter(content)
    flags, newest_id = _read_varint(numbers), _read_varint(numbers)
    shown, last_id = [], 0
    for _ in range(_bounded(_read_varint(numbers), MAX_SHOWN)):
        last_id += _read_varint(numbers)
        shown.append(ItemId(last_id))
    ahead = []
    for _ in range(_bounded(_read_varint(numbers), MAX_DEPTH)):
        item_id, first_rank = _read_varint(numbers), _read_varint(numbers)
        (probability,) = _PROBABILITY.unpack(bytes(_next_byte(numbers) for _ in range(_PROBABILITY.size)))
        ahead.append(Ahead(ItemId(item_id), first_rank, None if math.isnan(probability) else probability))
    return Place(ItemId(newest_id), frozenset(shown), tuple(ahead), bool(flags & _HAS_TAIL), bool(flags & _HAS_SECOND_LOOK))


def _append_varint(body: bytearray, number: int) -> None:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    while number > 0x7F:
        body.append(number & 0x7F | 0x80)
        number >>= 7
    body.append(number)


def _read_varint(numbers: Iterator[int]) -> int:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        byte = _next_byte(numbers)
        value |= (byte & 0x7F) << (7 * place)
        if byte <= 0x7F:
            return value
    raise ValueError("a number of more than 63 bits")


def _next_byte(numbers: Iterator[int]) -> int:
    for byte in numbers:
        return byte
    raise ValueError("it ends too early")


def _bounded(count: int, limit: int) -> int:
    if count > limit:
        raise ValueError(f"{count} entries")
    return count


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, person=_PERSON).digest()


def _altered() -> InvalidRequest:
    return InvalidRequest("the cursor is not one that this service gave; begin again without a cursor")
