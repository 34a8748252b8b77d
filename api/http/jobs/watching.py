"""The live progress of a job as server-sent events, for any number of people who look at the same one.

The row of the job is what is watched: it is at most half a second behind its process, and it is there whichever service runs the job. All
watchers of a job share one reading of it.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from api.http.wording import sentence_of
from sightline.errors import SightlineError
from sightline.storage.jobs import JobQueue, JobRecord

_LOOK_EVERY_S = 0.4
_KEEP_ALIVE_S = 15.0
"""A comment as often as this keeps proxies from closing a stream on which nothing happens."""

_RETRY_MS = 2000  # a browser whose stream broke comes back after this

KEEP_ALIVE = b": still here\n\n"


class JobWatch:
    """Reads jobs for those who watch them, each at most every 0.4 s. Thread-safe."""

    def __init__(self, jobs: JobQueue) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._job_by_id: dict[str, tuple[float, JobRecord]] = {}

    def look(self, job_id: str) -> JobRecord:
        """The job as it was 0.4 s ago or later. Raises `JobNotFound`."""
        with self._lock:
            now_s = time.monotonic()
            read_s, job = self._job_by_id.get(job_id, (float("-inf"), None))
            if job is None or now_s - read_s >= _LOOK_EVERY_S:
                job = self._jobs.get(job_id)
                recent = {key: value for key, value in self._job_by_id.items() if now_s - value[0] < _LOOK_EVERY_S}
                self._job_by_id = {**recent, job_id: (now_s, job)}
            return job

    def forget(self, job_id: str) -> None:
        """The job was changed just now: the next look reads it."""
        with self._lock:
            self._job_by_id.pop(job_id, None)


async def job_events(
    watch: JobWatch, job_id: str, *, body_of: Callable[[JobRecord], dict[str, Any]], is_stopping: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """An event for each change, `end` when the job has ended; ends with it, and when the service does."""
    last: dict[str, Any] | None = None
    told_s = time.monotonic()
    yield f"retry: {_RETRY_MS}\n\n".encode()
    while not is_stopping():
        try:
            job = await run_in_threadpool(watch.look, job_id)
        except SightlineError as error:  # a database that is away comes back; the stream has begun and has no status any more
            yield f": {' '.join(sentence_of(error).split())}\n\n".encode()
            await asyncio.sleep(_LOOK_EVERY_S)
            continue
        body = body_of(job)
        if body != last:
            last, told_s = body, time.monotonic()
            yield _event("end" if job.state.has_ended else "progress", body)
            if job.state.has_ended:
                return
        elif time.monotonic() - told_s >= _KEEP_ALIVE_S:
            told_s = time.monotonic()
            yield KEEP_ALIVE
        await asyncio.sleep(_LOOK_EVERY_S)


def _event(name: str, body: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(body)}\n\n".encode()
