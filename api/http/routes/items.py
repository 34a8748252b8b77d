"""Items: what a collection knows of them, their pictures, and deleting them."""

import hashlib
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Self

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api.http.auditing import AuditorDep
from api.http.authorisation import MaySearch, MayWrite
from api.http.pictures import Original, ThumbnailFormat, require_media_type
from api.http.problems import problem_responses
from api.http.ranges import requested_span
from api.http.schemas import Body, CollectionPath, Instant, Limit, Metadata
from api.http.service import Service, ServiceDep
from indexer.maintenance import delete_items_by_id
from sightline.errors import ItemNotFound
from sightline.storage.records import ItemRecord
from sightline.types import ItemId, Modality

router = APIRouter(prefix="/v1/collections/{collection}/items", tags=["items"], responses=problem_responses(401, 403, 404, 422, 429, 503))

MAX_ID = 2**63 - 1
"""What a database takes; more is an id that nothing has."""

_WRITER_WAIT_S = 2.0
"""A deletion waits so long for another writer's commit; a job that indexes writes much longer."""

_NAMED_IN_AUDIT = 100
"""Ids of a deletion that the audit list has; of more, their number."""

_MAX_SIDE = 1024
_PICTURE_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}

ItemIdPath = Annotated[int, Path(ge=0, le=MAX_ID, description="as hits have it", examples=[17])]
IfNoneMatch = Annotated[
    str | None, Header(description="an ETag that the caller has; the same is answered with 304", examples=['"0c2f5a8b1e4d7f90a3b6c9d2"'])
]
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The caller has it already"}}


class ItemBody(BaseModel):
    """An item."""

    item_id: int = Field(examples=[17])
    key: str = Field(description="what the collection calls it", examples=["beach/dog.jpg"])
    modality: Modality
    text: str | None = Field(description="a picture's caption, or the text itself", examples=["a dog runs along the beach"])
    width: int | None = Field(description="pixels; null for texts", examples=[1024])
    height: int | None = Field(examples=[768])
    size_bytes: int = Field(examples=[182_044])
    metadata: Metadata
    indexed_at: Instant

    @classmethod
    def of(cls, item: ItemRecord) -> Self:
        """The item as it is sent."""
        return cls(
            item_id=item.item_id,
            key=item.key,
            modality=item.modality,
            text=item.text,
            width=item.width,
            height=item.height,
            size_bytes=item.size_bytes,
            metadata=item.metadata,
            indexed_at=item.indexed_at,
        )


class ItemsBody(BaseModel):
    """A page of items."""

    items: Sequence[ItemBody]
    next_after: int | None = Field(description="`after` of the next page; null on the last one", examples=[17])


class DeletedBody(BaseModel):
    """What was deleted."""

    num_deleted: int = Field(examples=[2])


ItemNumber = Annotated[int, Field(strict=True, ge=0, le=MAX_ID)]
"""In JSON, where a text or `true` is no number: what is deleted by mistake is gone."""


class DeletionBody(Body):
    """Items to delete, all or none."""

    item_ids: Annotated[
        list[Annotated[int, Field(strict=True, ge=0, le=MAX_ID)]], Field(min_length=1, max_length=10_000, examples=[[17, 18]])
    ]


@router.get("", dependencies=[MaySearch])
def list_items(
    collection: CollectionPath,
    service: ServiceDep,
    after: Annotated[int | None, Query(ge=0, le=MAX_ID, description="`next_after` of the page before", examples=[17])] = None,
    modality: Annotated[Modality | None, Query(description="only pictures, or only texts", examples=["image"])] = None,
    limit: Limit = 100,
) -> ItemsBody:
    """Items in the order of their ids, which is that in which they were added."""
    store = service.sightline.store
    collection_id = store.collection(collection).collection_id
    items = store.listing.items(collection_id, after=None if after is None else ItemId(after), modality=modality, limit=limit + 1)
    page = items[:limit]
    return ItemsBody(items=[ItemBody.of(item) for item in page], next_after=page[-1].item_id if len(items) > limit else None)


@router.get("/{item_id}", dependencies=[MaySearch])
def get_item(collection: CollectionPath, item_id: ItemIdPath, service: ServiceDep) -> ItemBody:
    """One item."""
    return ItemBody.of(_item(service, collection, item_id=item_id))


@router.get(
    "/{item_id}/thumbnail",
    dependencies=[MaySearch],
    response_class=Response,
    responses={200: {"description": "The picture", "content": {"image/jpeg": {}, "image/webp": {}}}, **_NOT_MODIFIED},
)
def get_thumbnail(
    collection: CollectionPath,
    item_id: ItemIdPath,
    service: ServiceDep,
    size: Annotated[int, Query(ge=16, le=_MAX_SIDE, description="pixels of the longer side at most", examples=[400])] = 400,
    as_format: Annotated[ThumbnailFormat, Query(alias="format", description="of the file", examples=["webp"])] = "jpeg",
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A small copy of a picture, upright, in its own shape, never enlarged."""
    item = _item(service, collection, item_id=item_id)
    original = service.pictures.original(item)
    etag = f'"{hashlib.blake2b(f"{original.etag} {size} {as_format}".encode(), digest_size=12).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=3600", **_PICTURE_HEADERS}
    if _has(if_none_match, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    content = service.pictures.thumbnail(item, original, side=size, as_format=as_format)
    return Response(content, media_type=f"image/{as_format}", headers=headers)


@router.get(
    "/{item_id}/original",
    dependencies=[MaySearch],
    response_class=Response,
    responses={
        200: {"description": "The picture", "content": {"image/*": {}}},
        206: {"description": "The part of it that `Range` asks for", "content": {"image/*": {}}},
        **problem_responses(416),
        **_NOT_MODIFIED,
    },
)
def get_original(
    collection: CollectionPath,
    item_id: ItemIdPath,
    service: ServiceDep,
    byte_range: Annotated[str | None, Header(alias="Range", description="one range of bytes", examples=["bytes=0-1023"])] = None,
    if_range: Annotated[
        str | None, Header(description="an ETag; where it is another, `Range` is left aside", examples=['"0c2f5a8b1e4d7f90a3b6c9d2"'])
    ] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The picture as it was indexed, byte for byte."""
    item = _item(service, collection, item_id=item_id)
    original = service.pictures.original(item)
    media_type = require_media_type(item, original)
    headers = {
        "ETag": original.etag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": "inline",
        "Accept-Ranges": "bytes",
        **_PICTURE_HEADERS,
    }
    if _has(if_none_match, original.etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    wanted = byte_range if if_range in (None, original.etag) else None
    return _sent(original, wanted, media_type=media_type, headers=headers)


@router.delete("/{item_id}", dependencies=[MayWrite], responses=problem_responses(409, 507))
def delete_item(collection: CollectionPath, item_id: ItemIdPath, service: ServiceDep, auditor: AuditorDep) -> DeletedBody:
    """Delete one item; a picture that was uploaded goes too, a file of a folder or shard stays."""
    return delete_items(collection, DeletionBody(item_ids=[item_id]), service, auditor)


@router.post("/delete", dependencies=[MayWrite], responses=problem_responses(409, 507))
def delete_items(collection: CollectionPath, body: DeletionBody, service: ServiceDep, auditor: AuditorDep) -> DeletedBody:
    """Delete several items in one commit, or none where one of them does not exist."""
    item_ids = [ItemId(item_id) for item_id in body.item_ids]
    num_deleted = delete_items_by_id(service.sightline.store, collection, item_ids, wait_s=_WRITER_WAIT_S)
    named = body.item_ids[:_NAMED_IN_AUDIT]
    auditor.note("items.delete", collection, details={"num_deleted": num_deleted, "item_ids": named})
    return DeletedBody(num_deleted=num_deleted)


def _item(service: Service, collection: str, *, item_id: int) -> ItemRecord:
    """Raises `CollectionNotFound`, `ItemNotFound`."""
    store = service.sightline.store
    record = store.collection(collection)
    item = store.items(record.collection_id, [ItemId(item_id)]).get(ItemId(item_id))
    if item is None:
        raise ItemNotFound(f"the collection {record.name!r} holds no item {item_id}")
    return item


def _has(if_none_match: str | None, etag: str) -> bool:
    given = [part.strip().removeprefix("W/") for part in (if_none_match or "").split(",")]
    return etag in given or "*" in given


def _sent(original: Original, byte_range: str | None, *, media_type: str, headers: dict[str, str]) -> Response:
    try:
        span = requested_span(byte_range, num_bytes=original.num_bytes)
    except ValueError as error:
        detail = f"the picture has {original.num_bytes:,} bytes, and the range begins behind them"
        behind = {"Content-Range": f"bytes */{original.num_bytes}"}
        raise HTTPException(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, detail, headers=behind) from error
    start, end, status = (0, original.num_bytes, HTTPStatus.OK) if span is None else (span.start, span.end, HTTPStatus.PARTIAL_CONTENT)
    headers = {**headers, "Content-Length": str(end - start)}
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{original.num_bytes}"
    return StreamingResponse(original.read(start, end), status_code=status, media_type=media_type, headers=headers)
