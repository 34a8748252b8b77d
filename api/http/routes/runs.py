"""Indexing runs, and the ledger of what they skipped, as pages and as CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from api.http.authorisation import Writer
from api.http.problems import problem_responses
from api.http.schemas import Instant, Limit, OptionalInstant
from api.http.service import ServiceDep
from sightline.storage.listing import ListedEntry, Listing
from sightline.storage.records import RunRecord, RunState
from sightline.types import CollectionId, RunId

router = APIRouter(prefix="/v1", tags=["indexing"], responses=problem_responses(401, 403, 404, 422, 429, 503))

_MAX_ID = 2**63 - 1
_CSV_PAGE = 1000
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula, when it stands at the beginning of a cell."""

CollectionQuery = Annotated[
    str | None, Query(description="of one collection; a key of some collections has to name one", examples=["photos"])
]


class ListFormat(StrEnum):
    """How a list is sent."""

    JSON = "json"
    CSV = "csv"


class RunBody(BaseModel):
    """An indexing run."""

    run_id: int = Field(examples=[7])
    collection: str | None = Field(description="null for one that is gone meanwhile", examples=["photos"])
    source: str = Field(examples=["/srv/photos/"])
    state: RunState
    started_at: Instant
    finished_at: OptionalInstant
    counts: dict[str, int] = Field(description="inputs by what became of them", examples=[{"new": 1000, "skipped": 2}])

    @classmethod
    def of(cls, run: RunRecord, *, collection: str | None) -> Self:
        """The run as it is sent."""
        names = ("new", "changed", "moved", "unchanged", "gone", "pruned", "skipped")
        return cls(
            run_id=run.run_id,
            collection=collection,
            source=run.source,
            state=run.state,
            started_at=run.started_at,
            finished_at=run.finished_at,
            counts={name: getattr(run.counts, name) for name in names},
        )


class RunsBody(BaseModel):
    """A page of runs."""

    runs: Sequence[RunBody]
    next_before: int | None = Field(description="`before` of the next page; null on the last one", examples=[None])


class EntryBody(BaseModel):
    """An input that was skipped."""

    entry_id: int = Field(examples=[12])
    run_id: int = Field(examples=[7])
    collection: str | None = Field(examples=["photos"])
    key: str = Field(examples=["2024/broken.jpg"])
    source: str = Field(examples=["/srv/photos/"])
    cause: str = Field(examples=["it is cut short"])
    error_class: str = Field(examples=["UnreadableImage"])
    size_bytes: int = Field(examples=[182_044])
    at: Instant
    resolved_at: datetime | None = Field(description="when it was indexed after all, or skipped again by a later run", examples=[None])

    @classmethod
    def of(cls, listed: ListedEntry, *, collection: str | None) -> Self:
        """The entry as it is sent."""
        entry = listed.entry
        return cls(
            entry_id=listed.entry_id,
            run_id=entry.run_id,
            collection=collection,
            key=entry.key,
            source=entry.source,
            cause=entry.cause,
            error_class=entry.error_class,
            size_bytes=entry.size_bytes,
            at=entry.at,
            resolved_at=entry.resolved_at,
        )


class LedgerBody(BaseModel):
    """A page of the ledger."""

    entries: Sequence[EntryBody]
    next_after: int | None = Field(description="`after` of the next page; null on the last one", examples=[None])


_CSV_EXAMPLE = (
    f"{','.join(EntryBody.model_fields)}\r\n"
    "12,7,photos,2024/broken.jpg,/srv/photos/,it is cut short,UnreadableImage,182044,2026-11-27T09:30:00Z,\r\n"
)


@router.get("/runs")
def list_runs(
    service: ServiceDep,
    actor: Writer,
    collection: CollectionQuery = None,
    before: Annotated[int | None, Query(ge=0, le=_MAX_ID, description="`next_before` of the page before", examples=[7])] = None,
    limit: Limit = 100,
) -> RunsBody:
    """Indexing runs, the newest first."""
    if collection is None:
        actor.require_all_collections()
    store = service.sightline.store
    collection_id = None if collection is None else store.collection(collection).collection_id
    name_by_id = {record.collection_id: record.name for record in store.collections()}
    runs = store.listing.runs(collection_id, before=None if before is None else RunId(before), limit=limit + 1)
    page = runs[:limit]
    return RunsBody(
        runs=[RunBody.of(run, collection=name_by_id.get(run.collection_id)) for run in page],
        next_before=page[-1].run_id if len(runs) > limit else None,
    )


@router.get(
    "/ledger",
    response_model=LedgerBody,
    responses={200: {"description": "A page, or with `format=csv` all of it", "content": {"text/csv": {"example": _CSV_EXAMPLE}}}},
)
def list_ledger(
    service: ServiceDep,
    actor: Writer,
    collection: CollectionQuery = None,
    run_id: Annotated[int | None, Query(ge=0, le=_MAX_ID, description="of one run", examples=[7])] = None,
    unresolved: Annotated[bool, Query(description="only what is still not indexed", examples=[True])] = False,
    after: Annotated[int | None, Query(ge=0, le=_MAX_ID, description="`next_after` of the page before", examples=[12])] = None,
    limit: Limit = 100,
    as_format: Annotated[
        ListFormat, Query(alias="format", description="csv has all that follows `after`", examples=["csv"])
    ] = ListFormat.JSON,
) -> Response:
    """Inputs that were skipped, with their causes, in the order in which they were."""
    if collection is None:
        actor.require_all_collections()
    store = service.sightline.store
    collection_id = None if collection is None else store.collection(collection).collection_id
    pages = _Pages(store.listing, collection_id, RunId(run_id) if run_id is not None else None, unresolved)
    name_by_id = {record.collection_id: record.name for record in store.collections()}
    if as_format is ListFormat.CSV:
        rows = (EntryBody.of(entry, collection=name_by_id.get(entry.collection_id)) for entry in pages.all(after))
        headers = {"Content-Disposition": 'attachment; filename="ledger.csv"', "X-Content-Type-Options": "nosniff"}
        return StreamingResponse(_csv(rows), media_type="text/csv; charset=utf-8", headers=headers)
    entries = pages.page(after, limit + 1)
    page = entries[:limit]
    body = LedgerBody(
        entries=[EntryBody.of(entry, collection=name_by_id.get(entry.collection_id)) for entry in page],
        next_after=page[-1].entry_id if len(entries) > limit else None,
    )
    return JSONResponse(body.model_dump(mode="json"))


class _Pages:
    """The part of the ledger that was asked for."""

    def __init__(self, listing: Listing, collection_id: CollectionId | None, run_id: RunId | None, unresolved: bool) -> None:
        self._listing = listing
        self._collection_id = collection_id
        self._run_id = run_id
        self._unresolved = unresolved

    def page(self, after: int | None, limit: int) -> list[ListedEntry]:
        return self._listing.ledger(self._collection_id, run_id=self._run_id, after=after, limit=limit, unresolved_only=self._unresolved)

    def all(self, after: int | None) -> Iterator[ListedEntry]:
        """To the end; memory holds a page."""
        while page := self.page(after, _CSV_PAGE):
            yield from page
            after = page[-1].entry_id


def _csv(rows: Iterator[EntryBody]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(EntryBody.model_fields)
    for row in rows:
        writer.writerow([harmless_cell(value) for value in row.model_dump(mode="json").values()])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def harmless_cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, behind an apostrophe, as OWASP advises; a file's name may be one."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value
