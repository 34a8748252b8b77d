"""The queue of jobs: each a row with all that is needed to begin it again, whatever becomes of the process that does it.

A job goes from state to state in one statement that names the states it may come from, so that of two callers one wins and the other is
told. Who does a job looks at its state now and then: `running` is for as long as it may go on.

    queued -> running -> done | failed        failed, cancelled -> queued  (retry)
    queued, running -> paused -> queued       queued, running, paused -> cancelled
    running -> queued                         its process stopped or died
"""

import json
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from sightline.errors import Conflict, JobConflict, JobNotFound
from sightline.storage.columns import storable_json
from sightline.storage.database import Database
from sightline.storage.records import JobState
from sightline.storage.tables import JobRow
from sightline.types import JsonObject

_GOES_ON = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)
_NEVER_QUEUED = "an idempotency key names one request: use another for another one"


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is to be done."""

    kind: str
    spec: JsonObject  # enough to begin it anew
    collection: str | None = None
    created_by: str = ""
    idempotency_key: str | None = None  # a second request with it gets the job of the first
    incidental: frozenset[str] = frozenset()  # what of the spec another sending of the same request has otherwise


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it was when it was read."""

    job_id: str  # those made later are greater
    kind: str
    collection: str | None
    spec: JsonObject
    state: JobState
    progress: JsonObject  # what was last told of it
    result: JsonObject  # of one that is done
    error: str | None  # the sentence of one that failed
    num_attempts: int  # starts in a row that were for nothing
    created_by: str
    idempotency_key: str | None
    created_at: datetime
    started_at: datetime | None  # the first time
    finished_at: datetime | None


class JobQueue:
    """The jobs of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enqueue(self, job: NewJob) -> JobRecord:
        """Put a job at the end of the queue; where its idempotency key was used for the same request already, give that one's job.

        Raises `JobConflict` where the key was used for another request.
        """
        job_id = f"{time.time_ns():016x}{secrets.token_hex(8)}"
        values = {"kind": job.kind, "collection": job.collection, "spec": job.spec, "created_by": job.created_by}
        statement = insert(JobRow).values(
            job_id=job_id,
            **values,
            idempotency_key=job.idempotency_key,
            state=JobState.QUEUED,
            progress={},
            result={},
            num_attempts=0,
            created_at=datetime.now(UTC),
        )
        try:
            with self._database.writing() as connection:
                connection.execute(statement)
        except Conflict:
            earlier = self.queued_before(job)
            assert earlier is not None, "nothing else of a job has to be unique"
            return earlier
        return self.get(job_id)

    def queued_before(self, job: NewJob) -> JobRecord | None:
        """The job of the same request, sent before with the same idempotency key; None where it was not, or has none.

        Raises `JobConflict` where the key was used for another request.
        """
        if job.idempotency_key is None:
            return None
        with self._database.reading() as connection:
            row = connection.execute(_JOB.where(JobRow.idempotency_key == job.idempotency_key)).first()
        if row is None:
            return None
        earlier = _record(row)
        asked = _asked_for(job.kind, job.collection, json.loads(storable_json(job.spec)), job.incidental)
        if asked != _asked_for(earlier.kind, earlier.collection, earlier.spec, job.incidental):
            raise JobConflict(f"the idempotency key {job.idempotency_key!r} was used for job {earlier.job_id}; {_NEVER_QUEUED}")
        return earlier

    def get(self, job_id: str) -> JobRecord:
        """Raises `JobNotFound`."""
        with self._database.reading() as connection:
            row = connection.execute(_JOB.where(JobRow.job_id == job_id)).first()
        if row is None:
            raise JobNotFound(f"there is no job {job_id!r}")
        return _record(row)

    def state(self, job_id: str) -> JobState:
        """The state now. Raises `JobNotFound`."""
        return self.get(job_id).state

    def page(
        self, *, before: str | None = None, state: JobState | None = None, collection: str | None = None, limit: int = 100
    ) -> list[JobRecord]:
        """Jobs, the newest first: those before the job of that id."""
        statement = _JOB.order_by(JobRow.job_id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(JobRow.job_id < before)
        if state is not None:
            statement = statement.where(JobRow.state == state)
        if collection is not None:
            statement = statement.where(JobRow.collection == collection)
        with self._database.reading() as connection:
            return [_record(row) for row in connection.execute(statement)]

    def specs_to_do(self, kind: str) -> list[JsonObject]:
        """Of the jobs of a kind that may still be done, those that failed among them."""
        states = (*_GOES_ON, JobState.FAILED)
        with self._database.reading() as connection:
            return list(connection.scalars(select(JobRow.spec).where(JobRow.kind == kind, JobRow.state.in_(states))))

    def claim_next(self) -> JobRecord | None:
        """The job that waits longest, running from now on; None where none waits."""
        oldest = select(JobRow.job_id).where(JobRow.state == JobState.QUEUED).order_by(JobRow.job_id).limit(1)
        with self._database.reading() as connection:
            if connection.scalar(oldest) is None:
                return None  # nothing is written while there is nothing to do
        with self._database.writing() as connection:
            job_id = connection.scalar(oldest.with_for_update(skip_locked=True))
            if job_id is None:
                return None
            started_at = func.coalesce(JobRow.started_at, datetime.now(UTC))
            values = {"state": JobState.RUNNING, "started_at": started_at, "num_attempts": JobRow.num_attempts + 1, "error": None}
            connection.execute(update(JobRow).where(JobRow.job_id == job_id).values(**values))
        return self.get(job_id)

    def note_progress(self, job_id: str, progress: JsonObject) -> None:
        """What is told of a running job; of no consequence to one in another state."""
        statement = update(JobRow).where(JobRow.job_id == job_id, JobRow.state == JobState.RUNNING).values(progress=progress)
        with self._database.writing() as connection:
            connection.execute(statement)

    def pause(self, job_id: str) -> JobRecord:
        """Have it stop until it is resumed. Raises `JobNotFound`, `JobConflict` for one that has ended."""
        return self._move(job_id, JobState.PAUSED, of=(JobState.QUEUED, JobState.RUNNING))

    def resume(self, job_id: str) -> JobRecord:
        """Queue a paused job again, at its old place. Raises as `pause`."""
        return self._move(job_id, JobState.QUEUED, of=(JobState.PAUSED,))

    def cancel(self, job_id: str) -> JobRecord:
        """Have it stop for good; what it has done stays. Raises as `pause`."""
        return self._move(job_id, JobState.CANCELLED, of=_GOES_ON, finished_at=datetime.now(UTC))

    def retry(self, job_id: str) -> JobRecord:
        """Queue a job again that failed or was cancelled. Raises as `pause`."""
        of = (JobState.FAILED, JobState.CANCELLED)
        return self._move(job_id, JobState.QUEUED, of=of, finished_at=None, error=None, num_attempts=0)

    def finish(self, job_id: str, result: JsonObject) -> None:
        """It is done, also where it was told to pause while it came to its end; one that was cancelled stays so."""
        self._end(job_id, of=_GOES_ON, state=JobState.DONE, result=result)

    def fail(self, job_id: str, error: str) -> None:
        """It cannot be done, and `error` says why."""
        self._end(job_id, of=_GOES_ON, state=JobState.FAILED, error=error)

    def give_back(self, job_id: str, *, num_attempts: int) -> None:
        """Queue a running job again, at its old place; one that was paused or cancelled meanwhile stays so."""
        self._end(job_id, of=(JobState.RUNNING,), state=JobState.QUEUED, num_attempts=num_attempts, finished_at=None)

    def give_back_all(self) -> list[str]:
        """Queue all running jobs again: their service is gone, and this start is not counted. Returns their ids.

        Only for who holds the lock of those that run jobs.
        """
        running = JobRow.state == JobState.RUNNING
        with self._database.writing() as connection:
            job_ids = list(connection.scalars(select(JobRow.job_id).where(running)))
            connection.execute(update(JobRow).where(running).values(state=JobState.QUEUED, num_attempts=JobRow.num_attempts - 1))
        return job_ids

    def _move(self, job_id: str, state: JobState, *, of: Collection[JobState], **values: Any) -> JobRecord:
        statement = update(JobRow).where(JobRow.job_id == job_id, JobRow.state.in_(of)).values(state=state, **values)
        with self._database.writing() as connection:
            has_moved = bool(connection.execute(statement).rowcount)
        job = self.get(job_id)
        if not has_moved and job.state is not state:
            expected = " or ".join(sorted(of))
            raise JobConflict(f"job {job_id} is {job.state} and cannot become {state}: expected one that is {expected}")
        return job

    def _end(self, job_id: str, *, of: Collection[JobState], state: JobState, **values: Any) -> None:
        values = {"finished_at": datetime.now(UTC), **values}
        statement = update(JobRow).where(JobRow.job_id == job_id, JobRow.state.in_(of)).values(state=state, **values)
        with self._database.writing() as connection:
            connection.execute(statement)


def rename_in_jobs(connection: Connection, *, name: str, new_name: str) -> None:
    """Have jobs follow a collection that is renamed, in the transaction that renames it: who may see them goes by the name."""
    connection.execute(update(JobRow).where(JobRow.collection == name).values(collection=new_name))


_JOB = select(
    JobRow.job_id,
    JobRow.kind,
    JobRow.collection,
    JobRow.spec,
    JobRow.state,
    JobRow.progress,
    JobRow.result,
    JobRow.error,
    JobRow.num_attempts,
    JobRow.created_by,
    JobRow.idempotency_key,
    JobRow.created_at,
    JobRow.started_at,
    JobRow.finished_at,
)


def _asked_for(kind: str, collection: str | None, spec: JsonObject, incidental: Collection[str]) -> tuple[object, ...]:
    return kind, collection, {name: value for name, value in spec.items() if name not in incidental}


def _record(row: Sequence[Any]) -> JobRecord:
    return JobRecord(*row)
