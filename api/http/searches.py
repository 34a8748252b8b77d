"""What a search over HTTP asks for, however it was written, as the query that the engine answers; and its answer with a cursor."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import Response, UploadFile
from pydantic import ConfigDict, Field, Strict, TypeAdapter

from api.http.content_types import may_be_picture, media_type_of
from api.http.cursors import MAX_CURSOR_CHARACTERS, decode_cursor, digest_of_search, encode_cursor
from api.http.schemas import TINY_PICTURE, AnswerBody, Body
from api.http.service import Service
from api.http.telemetry import note_search
from api.library import Sightline
from search.engine import DEFAULT_TOP_K, Answer
from search.query import GivenEmbedding, LikeItem, Picture, Query, QueryPart, parse_query
from search.rerank import DEFAULT_DEPTH, Reranking
from sightline.errors import InvalidRequest, ItemNotFound
from sightline.types import ItemId, Modality

MAX_PARTS = 32
"""Of one kind in one query: each is embedded."""

MAX_ID = 2**63 - 1
"""What a database takes; more is an id that nothing has."""

MAX_TEXT_CHARACTERS = 100_000
"""Texts are cut to 512 words anyway, with a note that says so; this is a file by mistake."""

_ANSWERS = TypeAdapter(AnswerBody)

_WEIGHTS = "`dog::2 beach` weighs the dog twice"

Key = Annotated[str, Field(max_length=4096)]
ItemNumber = Annotated[int, Field(ge=0, le=MAX_ID)]
ItemNumberInJson = Annotated[int, Field(strict=True, ge=0, le=MAX_ID)]  # a text or `true` is none
CoordinateInJson = Annotated[float, Field(strict=True)]
TopK = Annotated[int, Field(ge=1, le=1000, description="hits on this page", examples=[20])]
Cursor = Annotated[
    str | None,
    Field(
        max_length=MAX_CURSOR_CHARACTERS,
        description="`next_cursor` of the page before; the rest of the query has to be the same",
        examples=["JpYqRzZ0sQ3mUq4h1n0b7kqAAGQCAwUAAA"],
    ),
]
RerankDepth = Annotated[int, Field(ge=0, le=1024, description="candidates that the second look reads; 0 takes none", examples=[64])]
RerankDeadline = Annotated[
    float | None,
    Field(gt=0, le=600_000, description="the second look reads so long at most; what it has not read keeps its place", examples=[50]),
]
MinMatch = Annotated[
    float | None, Field(ge=0, le=1, description="leaves out what matches with a lower probability, or was not read", examples=[0.5])
]
OnlyModality = Annotated[Modality | None, Field(description="only pictures, or only texts", examples=["image"])]
Words = Annotated[str | None, Field(max_length=MAX_TEXT_CHARACTERS, description=f"words; {_WEIGHTS}", examples=["a dog on the beach"])]
Without = Annotated[list[str], Field(max_length=MAX_PARTS, description="words to stay away from", examples=[["people"]])]
Like = Annotated[list[Key], Field(max_length=MAX_PARTS, description="keys of items to look for", examples=[["beach/dog.jpg"]])]
_STRICT = Strict()
"""In JSON, where a number is written as one."""

_IDS = Field(max_length=MAX_PARTS, description="ids of items to look for", examples=[[17]])


class Limits(Body):
    """What limits and orders the hits, whatever is looked for."""

    top_k: TopK = DEFAULT_TOP_K
    cursor: Cursor = None
    modality: OnlyModality = None
    rerank_depth: RerankDepth = DEFAULT_DEPTH
    rerank_deadline_ms: RerankDeadline = None
    min_match: MinMatch = None

    @property
    def limits(self) -> dict[str, Any]:
        """Those that were given."""
        return {name: getattr(self, name) for name in Limits.model_fields if name in self.model_fields_set}

    @property
    def reranking(self) -> Reranking | None:
        """The second look that is asked for. Raises `InvalidRequest`."""
        if self.rerank_depth:
            return Reranking(depth=self.rerank_depth, deadline_ms=self.rerank_deadline_ms, min_match=self.min_match)
        if self.min_match is not None:
            raise InvalidRequest("min_match needs the second look that rerank_depth=0 switches off; leave one of the two out")
        return None


class SearchParameters(Limits):
    """A search as an address, for links."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    q: Words = None
    without: Without = Field(default_factory=list)
    like: Like = Field(default_factory=list)
    like_id: Annotated[list[ItemNumber], _IDS] = Field(default_factory=list)

    @property
    def body(self) -> "SearchBody":
        """The same as a body."""
        return SearchBody(text=self.q, without=self.without, like=self.like, like_ids=self.like_id, **self.limits)


class SearchForm(Limits):
    """A search as a form, with a picture that is uploaded."""

    image: Annotated[UploadFile, Field(description="the file of a picture to look for")]
    text: Annotated[Words, Field(description="words to look for as well")] = None
    without: Without = Field(default_factory=list)

    @property
    def body(self) -> "SearchBody":
        """The same as a body, without the picture."""
        return SearchBody(text=self.text, without=self.without, **self.limits)


class SearchBody(Limits):
    """A search. What is looked for is added up: words, a picture, items, an embedding."""

    model_config = ConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [{"text": "a dog on the beach", "without": ["people"], "top_k": 20}, {"like_ids": [17], "top_k": 20}]
        },
    )

    top_k: Annotated[TopK, _STRICT] = DEFAULT_TOP_K
    rerank_depth: Annotated[RerankDepth, _STRICT] = DEFAULT_DEPTH
    rerank_deadline_ms: Annotated[RerankDeadline, _STRICT] = None
    min_match: Annotated[MinMatch, _STRICT] = None
    text: Words = None
    without: Without = Field(default_factory=list)
    image: Annotated[str | None, Field(description="the file of a picture in base64, URL-safe or plain", examples=[TINY_PICTURE])] = None
    like: Like = Field(default_factory=list)
    like_ids: Annotated[list[ItemNumberInJson], _IDS] = Field(default_factory=list)
    embedding: Annotated[
        list[CoordinateInJson] | None,
        Field(min_length=1, max_length=65_536, description="as the collection's own encoder gave it, of any length"),
    ] = None
    embedding_of: Annotated[Modality, Field(description="what the embedding was made of")] = Modality.TEXT


@dataclass(frozen=True, slots=True)
class Search:
    """A search of one collection, understood."""

    collection: str
    query: Query
    body: Limits


def understood(body: SearchBody, service: Service, *, collection: str, picture: bytes | None = None) -> Search:
    """The body as a query; `picture` is the file of one that came beside it.

    Raises `InvalidRequest`, `InvalidQuery`, `CollectionNotFound`, `ItemNotFound`, `UnreadableImage`.
    """
    if body.text is None and not (body.without or body.like or body.like_ids or body.image or picture or body.embedding):
        raise InvalidRequest("the search looks for nothing; give text, image, like, like_ids or embedding")
    parts: list[QueryPart] = [LikeItem(key) for key in _keys_of(body.like_ids, service, collection=collection)]
    content = decoded_base64(body.image, field="image") if body.image is not None else picture
    if content is not None:
        parts.append(Picture(service.decoder.decode(content).image))
    if body.embedding is not None:
        parts.append(GivenEmbedding(np.asarray(body.embedding, dtype=np.float64), body.embedding_of))
    like = [_checked_key(key) for key in body.like]
    query = parse_query(body.text, like=like, without=body.without, others=parts, modality=body.modality)
    return Search(collection, query, body)


def answered(search: Search, sightline: Sightline) -> AnswerBody:
    """What the engine says, with the cursor of the page that follows. Raises what `Sightline.search` raises, and `InvalidRequest`."""
    body = search.body
    if body.cursor is None:
        found = sightline.search(search.query, k=body.top_k, collection=search.collection, reranking=body.reranking)
        return answer_body(search, found)
    asked_of = sightline.collection(search.collection).collection_id
    place = decode_cursor(body.cursor, query_digest=digest_of_search(search.query, asked_of, body.reranking))
    return answer_body(search, sightline.search_on(search.query, place=place, k=body.top_k, collection=search.collection))


def answer_body(search: Search, answer: Answer) -> AnswerBody:
    """The engine's answer to the search, with the cursor of the page that follows."""
    note_search(answer.timings)
    cursor = None
    if answer.next_place is not None:
        digest = digest_of_search(search.query, answer.collection_id, search.body.reranking)
        cursor = encode_cursor(answer.next_place, query_digest=digest)
    body, asked = AnswerBody.of(answer, next_cursor=cursor), search.body.rerank_depth
    if answer.reranked is not None and answer.reranked.depth < asked and "rerank_depth" in search.body.model_fields_set:
        there = f"there are {answer.reranked.depth:,} candidates for the second look to read; rerank_depth asked for {asked:,}"
        body.notes.append(there)
    return body


def as_response(body: AnswerBody) -> Response:
    """The answer written in the thread that found it: FastAPI would take another thread for that."""
    return Response(_ANSWERS.dump_json(body), media_type="application/json")


def decoded_base64(text: str, *, field: str) -> bytes:
    """Bytes of base64 in either alphabet, padded or not, bare or as a data URI; raises `InvalidRequest`."""
    head, comma, rest = text.partition(",")
    if comma and head.startswith("data:"):
        if not head.endswith(";base64") or not may_be_picture(media_type_of(head.removeprefix("data:"))):
            raise InvalidRequest(f"{field} is a data URI that is no picture in base64; expected data:image/jpeg;base64,... or the like")
        text = rest
    bare = text.rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_" if "-" in bare or "_" in bare else None, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field} is not base64 ({error}); send the file's bytes in URL-safe base64") from error


def _keys_of(item_ids: Sequence[int], service: Service, *, collection: str) -> list[str]:
    """Raises `ItemNotFound` for the first that the collection does not have."""
    if not item_ids:
        return []
    record = service.sightline.collection(collection)
    items = service.sightline.store.items(record.collection_id, [ItemId(item_id) for item_id in item_ids])
    missing = [item_id for item_id in item_ids if item_id not in items]
    if missing:
        raise ItemNotFound(f"the collection {collection!r} holds no item number {missing[0]}")
    return [items[ItemId(item_id)].key for item_id in item_ids]


def _checked_key(key: str) -> str:
    """Raises `ItemNotFound` for what PostgreSQL could not hold as text."""
    if "\0" in key:
        raise ItemNotFound(f"the collection holds no item {key!r}; a key is a path relative to the source it was indexed from")
    return key
