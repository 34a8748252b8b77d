"""Jobs: work in the background that is queued, watched, paused, and outlives a restart of the service."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Body, Header, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from api.http.access import Actor
from api.http.auditing import Auditor, AuditorDep
from api.http.authorisation import MayWrite, Writer
from api.http.jobs.roots import require_within
from api.http.jobs.specs import HubnessSpec, IndexSpec, JobRequest, spec_of, stored_spec
from api.http.jobs.watching import job_events
from api.http.problems import problem_responses
from api.http.schemas import Instant, OptionalInstant
from api.http.service import Service, ServiceDep
from sightline.errors import CollectionNotFound, InvalidRequest, JobConflict, NotPermitted
from sightline.storage.jobs import JobRecord, NewJob
from sightline.storage.names import check_collection_name
from sightline.storage.records import JobState
from sightline.types import Scope

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=problem_responses(401, 403, 422, 429, 503))

_PAGE_MOST = 200
_AHEAD_OF_FILTER = 5
"""A key of some collections sees some jobs; so many pages are read at most to fill one of its pages."""

EXAMPLE_ID = "186fd3c3b9e0a2004f9a2b7c1d3e5f60"
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="as it was given when the job was queued", examples=[EXAMPLE_ID])]


class JobBody(BaseModel):
    """A job."""

    job_id: str = Field(examples=[EXAMPLE_ID])
    kind: str = Field(description="index, upload, compact, rebuild, verify, patches or hubness", examples=["index"])
    collection: str | None = Field(examples=["photos"])
    spec: dict[str, Any] = Field(description="what it was told to do", examples=[{"source": "/srv/photos", "prune": True}])
    state: JobState = Field(examples=["running"])
    progress: dict[str, Any] = Field(
        description="stage, and as far as they are known num_done, num_to_do, num_embedded, num_skipped, num_committed, inputs_per_s, "
        "elapsed_s, remaining_s",
        examples=[{"stage": "embedding", "num_done": 640, "num_to_do": 2000, "inputs_per_s": 21.5, "remaining_s": 63}],
    )
    result: dict[str, Any] = Field(description="of one that is done", examples=[{}])
    error: str | None = Field(description="the sentence of one that failed", examples=[None])
    num_attempts: int = Field(description="starts in a row that came to nothing", examples=[0])
    created_by: str = Field(examples=["nightly import (key 3)"])
    created_at: Instant
    started_at: OptionalInstant
    finished_at: Annotated[datetime | None, Field(examples=[None])]

    @classmethod
    def of(cls, job: JobRecord) -> Self:
        """The job as it is sent."""
        return cls(
            job_id=job.job_id,
            kind=job.kind,
            collection=job.collection,
            spec=job.spec,
            state=job.state,
            progress=job.progress,
            result=job.result,
            error=job.error,
            num_attempts=job.num_attempts,
            created_by=job.created_by,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


_EVENTS_EXAMPLE = (
    f'event: progress\ndata: {{"job_id": "{EXAMPLE_ID}", "state": "running", "progress": {{"num_done": 640}}, ...}}\n\n'
    f'event: end\ndata: {{"job_id": "{EXAMPLE_ID}", "state": "done", "progress": {{"num_done": 2000}}, ...}}\n\n'
)


class JobsBody(BaseModel):
    """A page of jobs."""

    jobs: Sequence[JobBody]
    next_before: str | None = Field(description="`before` of the next page; null on the last one", examples=[None])


_EXAMPLES = {
    "a folder": {"value": {"kind": "index", "collection": "photos", "source": "/srv/photos", "prune": True}},
    "shards": {"value": {"kind": "index", "collection": "photos", "source": "/srv/shards/*.tar", "source_kind": "webdataset"}},
    "compaction": {"value": {"kind": "compact", "collection": "photos"}},
    "a bank of queries": {"value": {"kind": "hubness", "collection": "photos", "queries": "captions"}},
    "a bank from a file": {"value": {"kind": "hubness", "collection": "photos", "source": "/srv/asked.txt"}},
    "patches": {"value": {"kind": "patches", "collection": "photos"}},
    "rebuild": {"value": {"kind": "rebuild", "collection": "photos"}},
    "verification": {"value": {"kind": "verify"}},
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=128,
        pattern="^[!-~]+$",
        description="the same key and request again give the same job, not another",
        examples=["import-2026-11-27"],
    ),
]


@router.post("", status_code=202, responses=problem_responses(404, 409, 507))
def queue_job(
    body: Annotated[JobRequest, Body(openapi_examples=_EXAMPLES)],
    service: ServiceDep,
    actor: Writer,
    auditor: AuditorDep,
    idempotency_key: IdempotencyKey = None,
) -> JobBody:
    """Queue a job. Indexing takes a key with the scope write, all else one with admin."""
    _require(auditor, kind=body.kind, collection=body.collection)
    store = service.sightline.store
    if isinstance(body, IndexSpec | HubnessSpec) and body.source is not None:
        require_within(body.source, service.settings.source_roots, store=store.folder)
    if isinstance(body, IndexSpec):
        _require_address(service, body.collection)
    elif body.collection is not None:
        store.collection(body.collection)
    job = NewJob(body.kind, stored_spec(body), body.collection, created_by=str(actor), idempotency_key=idempotency_key)
    queued = _queued(service, job)
    auditor.note("job.queue", queued.job_id, details={"kind": job.kind, "collection": job.collection, **job.spec})
    return queued


@router.get("")
def list_jobs(
    service: ServiceDep,
    actor: Writer,
    before: Annotated[
        str | None, Query(pattern="^[0-9a-f]{32}$", description="`next_before` of the page before", examples=[EXAMPLE_ID])
    ] = None,
    state: Annotated[JobState | None, Query(description="only those in this state", examples=["running"])] = None,
    collection: Annotated[str | None, Query(description="only those of this collection", examples=["photos"])] = None,
    limit: Annotated[int, Query(ge=1, le=_PAGE_MOST, description="so many at most", examples=[20])] = 50,
) -> JobsBody:
    """Jobs, the newest first; those that the key may see."""
    seen: list[JobRecord] = []
    for _ in range(_AHEAD_OF_FILTER):
        page = service.sightline.store.jobs.page(before=before, state=state, collection=collection, limit=limit + 1)
        has_more = len(page) > limit
        before = page[min(len(page), limit) - 1].job_id if has_more else None
        seen += [job for job in page[:limit] if _may_see(actor, job)]
        if before is None or seen:
            break
    return JobsBody(jobs=[JobBody.of(job) for job in seen], next_before=before)


@router.get("/{job_id}", responses=problem_responses(404))
def get_job(job_id: JobId, service: ServiceDep, actor: Writer) -> JobBody:
    """One job."""
    return JobBody.of(_visible(service, actor, job_id=job_id))


@router.post("/{job_id}/pause", dependencies=[MayWrite], responses=problem_responses(404, 409, 507))
def pause_job(job_id: JobId, service: ServiceDep, auditor: AuditorDep) -> JobBody:
    """Have it stop after what is whole has been committed, until it is resumed."""
    _own(service, auditor, job_id=job_id)
    job = service.sightline.store.jobs.pause(job_id)
    auditor.note("job.pause", job_id)
    return _told(service, job)


@router.post("/{job_id}/resume", dependencies=[MayWrite], responses=problem_responses(404, 409, 507))
def resume_job(job_id: JobId, service: ServiceDep, auditor: AuditorDep) -> JobBody:
    """Have a paused job go on where it was."""
    _own(service, auditor, job_id=job_id)
    job = service.sightline.store.jobs.resume(job_id)
    auditor.note("job.resume", job_id)
    return _told(service, job)


@router.post("/{job_id}/cancel", dependencies=[MayWrite], responses=problem_responses(404, 409, 507))
def cancel_job(job_id: JobId, service: ServiceDep, auditor: AuditorDep) -> JobBody:
    """Have it stop for good; what it has committed stays."""
    _own(service, auditor, job_id=job_id)
    job = service.sightline.store.jobs.cancel(job_id)
    auditor.note("job.cancel", job_id)
    return _told(service, job)


@router.post("/{job_id}/retry", status_code=202, responses=problem_responses(404, 409, 507))
def retry_job(job_id: JobId, service: ServiceDep, actor: Writer, auditor: AuditorDep) -> JobBody:
    """Queue it again where it failed or was cancelled; where indexing is done, a new job that tries again what was skipped."""
    job = _own(service, auditor, job_id=job_id)
    if job.state is not JobState.DONE:
        again = _told(service, service.sightline.store.jobs.retry(job_id))
        auditor.note("job.retry", job_id)
        return again
    spec = spec_of(job)
    if not isinstance(spec, IndexSpec):
        raise JobConflict(f"job {job_id} is done, and a job of kind {job.kind} skips nothing that could be tried again")
    spec = spec.model_copy(update={"retry_skipped": True})
    again = _queued(service, NewJob(spec.kind, stored_spec(spec), spec.collection, created_by=str(actor)))
    auditor.note("job.retry", job_id, details={"job": again.job_id})
    return again


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"description": "`progress` and `end` events with a job each", "content": {"text/event-stream": {"example": _EVENTS_EXAMPLE}}},
        **problem_responses(404),
    },
)
def watch_job(job_id: JobId, service: ServiceDep, actor: Writer) -> StreamingResponse:
    """Live progress as server-sent events, until the job ends."""
    _visible(service, actor, job_id=job_id)
    events = job_events(
        service.job_watch,
        job_id,
        body_of=lambda job: JobBody.of(job).model_dump(mode="json"),
        is_stopping=service.stopping.is_set,
    )
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def _require_address(service: Service, collection: str) -> None:
    """Raises `InvalidRequest` for a name of a new collection that an address could not hold, and `InvalidInput` for one that is none."""
    try:
        service.sightline.collection(collection)
    except CollectionNotFound:
        check_collection_name(collection)
        if "/" in collection:
            raise InvalidRequest(
                f"there is no collection {collection[:80]!r}, and none with a slash is made over HTTP: no address could hold its name"
            ) from None


def _require(auditor: Auditor, *, kind: str, collection: str | None) -> None:
    """Raises `NotPermitted` unless who asks may ask for such a job."""
    actor = auditor.actor
    if kind not in ("index", "upload"):
        try:
            actor.require_scope(Scope.ADMIN)
        except NotPermitted as error:
            auditor.note_refusal(error)
            raise
    if collection is None:
        actor.require_all_collections()
    else:
        actor.require_collection(collection)


def _may_see(actor: Actor, job: JobRecord) -> bool:
    return actor.collections is None if job.collection is None else actor.may_use(job.collection)


def _visible(service: Service, actor: Actor, *, job_id: str) -> JobRecord:
    """Raises `JobNotFound`, `NotPermitted`."""
    job = service.sightline.store.jobs.get(job_id)
    if job.collection is None:
        actor.require_all_collections()
    else:
        actor.require_collection(job.collection)
    return job


def _own(service: Service, auditor: Auditor, *, job_id: str) -> JobRecord:
    """A job that who asks may change. Raises `JobNotFound`, `NotPermitted`."""
    job = service.sightline.store.jobs.get(job_id)
    _require(auditor, kind=job.kind, collection=job.collection)
    return job


def _queued(service: Service, job: NewJob) -> JobBody:
    return _told(service, service.sightline.store.jobs.enqueue(job))


def _told(service: Service, job: JobRecord) -> JobBody:
    service.job_watch.forget(job.job_id)
    service.runner.wake()
    return JobBody.of(job)
