"""Items that are sent: many pictures in one form, or lines of JSON, with what became of each."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import IO, Annotated, Any, Self

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.http.auditing import Auditor, AuditorDep
from api.http.authorisation import MayWrite
from api.http.content_types import media_type_of
from api.http.fetching import Fetcher
from api.http.jobs.ordering import fetch_limits
from api.http.jobs.specs import CompactionExtent, CompactSpec, UploadSpec, stored_spec
from api.http.problems import problem_responses
from api.http.routes.jobs import IdempotencyKey, JobBody
from api.http.schemas import TINY_PICTURE, CollectionPath
from api.http.service import Service, ServiceDep
from api.http.uploads.batches import Batch
from api.http.uploads.forms import FormReceiver
from api.http.uploads.indexing import BatchIndexer, decode_in, refuse_to_fetch
from api.http.wording import sentence_of
from indexer.upserting import ItemOutcome, Outcome, note_outcomes
from sightline.errors import InvalidRequest, Overloaded, RequestTooLarge, StoreBusy, UnsupportedMediaType
from sightline.locations import uploads_folder
from sightline.storage.jobs import JobRecord, NewJob
from sightline.storage.records import CollectionRecord, JobState
from sightline.storage.sealed_files import sync_and_close, translated_disk_errors
from sightline.types import JsonObject, RunId

router = APIRouter(
    prefix="/v1/collections/{collection}/items",
    tags=["items"],
    responses=problem_responses(401, 403, 404, 409, 413, 415, 422, 429, 503, 507),
)

_WRITER_WAIT_S = 2.0
"""An upload that finds another writer at work for longer becomes a job: nothing is sent twice for another's sake."""

_MANY_SEGMENTS = 24
"""Each upload is a segment or two; this many are merged by a job, since searches look into each."""

MAX_LINES = 100_000
"""Each gets a status in the answer, and has one in memory until then."""

_FORM, _LINES = "multipart/form-data", ("application/x-ndjson", "application/jsonl")


class Reason(StrEnum):
    """Why what was sent became a job."""

    ASKED_FOR = "asked for"
    STORE_BUSY = "another process writes"
    MANY_UPLOADS = "other uploads are being indexed"
    SENT_BEFORE = "the same was sent before under this idempotency key"


class When(StrEnum):
    """When what is sent is indexed."""

    NOW = "now"
    LATER = "later"


class ErrorBody(BaseModel):
    """Why an item was not taken."""

    type: str = Field(examples=["UnreadableImage"])
    detail: str = Field(examples=["dog.jpg: it is cut short"])


class OutcomeBody(BaseModel):
    """What became of one item."""

    key: str = Field(examples=["beach/dog.jpg"])
    status: Outcome
    item_id: int | None = Field(examples=[17])
    error: ErrorBody | None = Field(description="null where it was taken", examples=[None])

    @classmethod
    def of(cls, outcome: ItemOutcome) -> Self:
        """The outcome as it is sent."""
        error = None if outcome.error is None else ErrorBody(type=type(outcome.error).__name__, detail=sentence_of(outcome.error))
        return cls(key=outcome.key, status=outcome.outcome, item_id=outcome.item_id, error=error)


class UploadBody(BaseModel):
    """What became of everything that was sent, in its order."""

    collection: str = Field(examples=["photos"])
    num_added: int = Field(examples=[1])
    num_replaced: int = Field(examples=[0])
    num_unchanged: int = Field(examples=[0])
    num_failed: int = Field(examples=[0])
    run_id: int | None = Field(description="of what failed, in `/v1/ledger`; null where nothing did", examples=[None])
    items: Sequence[OutcomeBody]

    @classmethod
    def of(cls, collection: str, outcomes: Sequence[ItemOutcome], *, run_id: int | None) -> Self:
        """The outcomes as they are sent."""
        counts: dict[str, Any] = {f"num_{kind}": sum(each.outcome is kind for each in outcomes) for kind in Outcome}
        return cls(collection=collection, run_id=run_id, items=[OutcomeBody.of(each) for each in outcomes], **counts)


class QueuedBody(BaseModel):
    """What was sent is safe, and a job indexes it."""

    job: JobBody
    reason: Reason


_REQUEST = {
    "required": True,
    "content": {
        _FORM: {
            "schema": {
                "type": "object",
                "properties": {
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "pictures"},
                    "details": {
                        "type": "string",
                        "description": "JSON: a list with an object for each file, in their order: key, caption, metadata",
                    },
                },
                "required": ["files"],
            }
        },
        _LINES[0]: {
            "schema": {"type": "string"},
            "example": '{"key": "note 1", "text": "a dog on the beach"}\n'
            f'{{"key": "dog.png", "image": "data:image/png;base64,{TINY_PICTURE}"}}\n',
        },
    },
}


@router.post(
    "",
    response_model=UploadBody,
    responses={202: {"model": QueuedBody, "description": "It is stored and a job indexes it"}},
    dependencies=[MayWrite],
    openapi_extra={"requestBody": _REQUEST},
)
async def send_items(
    collection: CollectionPath,
    request: Request,
    service: ServiceDep,
    auditor: AuditorDep,
    when: Annotated[When, Query(description="later: a job indexes what is sent, and this answers at once", examples=["later"])] = When.NOW,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Add items, or replace those that have their keys: pictures in a form, or texts and pictures as lines of JSON.

    A file's key is its name, unless `details` says another. Each item has a status of its own; sending the same again changes nothing.
    While another process writes, or many uploads are being indexed, what is sent becomes a job. With a header `Idempotency-Key` the same
    sent twice is one job, where it became one, and anything else with that key is refused.
    """
    record = await run_in_threadpool(service.sightline.store.collection, collection)
    batch = await _received(service, record, request)
    new_job = await run_in_threadpool(_job_of, record, batch, created_by=str(auditor.actor), idempotency_key=idempotency_key)
    earlier = await run_in_threadpool(_sent_before, service, new_job, batch)
    if earlier is not None:
        return JSONResponse(QueuedBody(job=JobBody.of(earlier), reason=Reason.SENT_BEFORE).model_dump(mode="json"), status_code=202)
    reason = Reason.ASKED_FOR
    if when is When.NOW:
        try:
            outcomes, run_id = await run_in_threadpool(_index, service, record, batch)
        except StoreBusy:
            reason = Reason.STORE_BUSY
        except Overloaded:
            reason = Reason.MANY_UPLOADS
        except BaseException:
            await run_in_threadpool(batch.remove)
            raise
        else:
            await run_in_threadpool(_tidy_up, service, record, batch)
            await run_in_threadpool(_note, auditor, record, outcomes)
            return JSONResponse(UploadBody.of(record.name, outcomes, run_id=run_id).model_dump(mode="json"))
    job = await run_in_threadpool(_queue, service, auditor, new_job, batch)
    return JSONResponse(QueuedBody(job=job, reason=reason).model_dump(mode="json"), status_code=202)


async def _received(service: Service, record: CollectionRecord, request: Request) -> Batch:
    """What the body holds, on disk.

    Raises `UnsupportedMediaType` for what is neither a form nor lines, and `InvalidRequest` for what is cut short.
    """
    content_type = request.headers.get("content-type", "")
    kind = media_type_of(content_type)
    if kind != _FORM and kind not in _LINES:
        raise UnsupportedMediaType(f"the content type {kind[:80]!r} is none that items are sent in; expected {_FORM} or {_LINES[0]}")
    store = service.sightline.store
    await run_in_threadpool(store.require_room)
    batch = await run_in_threadpool(Batch.begin, uploads_folder(store.folder, collection_id=record.collection_id))
    try:
        if kind == _FORM:
            await _receive_form(batch, request, content_type, max_picture_bytes=service.settings.max_body_bytes)
        else:
            await _receive_lines(batch, request)
    except ClientDisconnect as error:
        await run_in_threadpool(batch.remove)
        raise InvalidRequest("the upload is cut short; send it again") from error
    except BaseException:
        await run_in_threadpool(batch.remove)
        raise
    return batch


async def _receive_form(batch: Batch, request: Request, content_type: str, *, max_picture_bytes: int) -> None:
    with contextlib.closing(FormReceiver(batch, content_type, max_picture_bytes=max_picture_bytes)) as receiver:
        async for content in _chunks(request):
            await run_in_threadpool(receiver.feed, content)
        await run_in_threadpool(receiver.finish)


async def _receive_lines(batch: Batch, request: Request) -> None:
    num_lines = 0
    with batch.create_lines() as file:
        async for content in _chunks(request):
            num_lines += content.count(b"\n")
            if num_lines > MAX_LINES:
                raise RequestTooLarge(f"more than {MAX_LINES:,} lines; send them in several uploads, or index a file of them by a job")
            await run_in_threadpool(_write, batch, file, content)
        await run_in_threadpool(sync_and_close, file)


def _write(batch: Batch, file: IO[bytes], content: bytes) -> None:
    with translated_disk_errors(batch.folder):
        file.write(content)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for content in request.stream():
        if content:
            yield content


def _index(service: Service, record: CollectionRecord, batch: Batch) -> tuple[list[ItemOutcome], RunId | None]:
    """What became of the entries, and the run that what failed is listed under.

    Raises `StoreBusy`, and `Overloaded` where too many uploads are being indexed or pictures decoded.
    """
    if not service.uploading.acquire(timeout=_WRITER_WAIT_S):
        raise Overloaded("more uploads are being indexed than can be at once")
    try:
        outcomes = _indexed(service, record, batch)
    finally:
        service.uploading.release()
    return outcomes, note_outcomes(service.sightline.store, record, outcomes)


def _indexed(service: Service, record: CollectionRecord, batch: Batch) -> list[ItemOutcome]:
    limits = fetch_limits(service.settings)
    indexer = BatchIndexer(
        service.sightline,
        record,
        decode=decode_in(service.decoder, image_side=service.sightline.encoders.for_collection(record).image_side),
        fetch=refuse_to_fetch if limits is None else Fetcher(limits).fetch,
        max_picture_bytes=service.settings.max_body_bytes,
    )
    return [outcome for outcomes in indexer.index(batch, wait_s=_WRITER_WAIT_S) for outcome in outcomes]


def _tidy_up(service: Service, record: CollectionRecord, batch: Batch) -> None:
    """Remove what is left of the batch; have segments merged where many uploads have made many."""
    batch.remove()
    store = service.sightline.store
    if store.statistics(record.collection_id).num_segments < _MANY_SEGMENTS:
        return
    waiting = store.jobs.page(state=JobState.QUEUED, collection=record.name) + store.jobs.page(
        state=JobState.RUNNING, collection=record.name
    )
    if not any(job.kind == "compact" for job in waiting):
        spec = CompactSpec(kind="compact", collection=record.name, extent=CompactionExtent.WORTH_IT)
        store.jobs.enqueue(NewJob(spec.kind, stored_spec(spec), spec.collection, created_by="uploads"))
        service.runner.wake()


def _note(auditor: Auditor, record: CollectionRecord, outcomes: Sequence[ItemOutcome]) -> None:
    """Sending what is there already changes nothing, and so does what fails."""
    counts: JsonObject = {f"num_{kind}": sum(each.outcome is kind for each in outcomes) for kind in (Outcome.ADDED, Outcome.REPLACED)}
    if any(counts.values()):
        auditor.note("items.send", record.name, details=counts)


def _job_of(record: CollectionRecord, batch: Batch, *, created_by: str, idempotency_key: str | None) -> NewJob:
    digest = "" if idempotency_key is None else batch.digest()
    spec = UploadSpec(kind="upload", collection=record.name, batch=batch.name, digest=digest)
    incidental = frozenset({"batch"})
    return NewJob(spec.kind, stored_spec(spec), spec.collection, created_by, idempotency_key, incidental)


def _sent_before(service: Service, job: NewJob, batch: Batch) -> JobRecord | None:
    """The job of the same upload under the same idempotency key; then, and where that is refused, this batch is removed."""
    try:
        earlier = service.sightline.store.jobs.queued_before(job)
    except BaseException:
        batch.remove()
        raise
    if earlier is not None:
        batch.remove()
    return earlier


def _queue(service: Service, auditor: Auditor, job: NewJob, batch: Batch) -> JobBody:
    queued = service.sightline.store.jobs.enqueue(job)
    if queued.spec["batch"] != batch.name:  # the same was sent twice at once
        batch.remove()
        return JobBody.of(queued)
    auditor.note("job.queue", queued.job_id, details={"kind": job.kind, "collection": job.collection, **job.spec})
    service.runner.wake()
    return JobBody.of(queued)
