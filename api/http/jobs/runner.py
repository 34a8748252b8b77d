"""The thread that does the queue's jobs, one after the other, each in a process of its own.

Of several services on one store one runs jobs: the one that holds a lock in the store's folder. A job that is `running` while nobody
holds it was left behind by a service that died; its process, where it still lives, ends by itself, and until then the writer's lock keeps
a second one of its kind waiting.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from api.http.jobs.process import JobProcess, Told
from api.http.jobs.specs import Order
from sightline.errors import SightlineError
from sightline.storage.jobs import JobQueue, JobRecord
from sightline.storage.records import JobState
from sightline.storage.writer_lock import JOBS_LOCK_FILE, held_alone
from sightline.types import JsonObject

logger = logging.getLogger(__name__)

MAX_RETRIES = 3
"""Of a process that is killed again and again without a commit between: the job itself is what kills it then."""

_LOOK_EVERY_S = 2.0
"""For a job that another process queued; those of this one wake the thread."""

_WRITE_EVERY_S = 0.5
_READ_S = 0.25
_STOP_S = 30.0
"""A process that was told to stop and has not after this is killed: what it has committed stays."""


@dataclass(slots=True)
class _Course:
    """How one start of a job goes."""

    progress: JsonObject = field(default_factory=dict)
    outcome: Told | None = None
    written_s: float = float("-inf")
    is_written: bool = True
    told_to_stop_s: float | None = None


class JobRunner:
    """Runs the jobs of a store from `start` to `stop`."""

    def __init__(
        self, jobs: JobQueue, *, folder: Path, order_of: Callable[[JobRecord], Order], tidy_up: Callable[[JobRecord], None]
    ) -> None:
        """`tidy_up` takes away what a job needed, once its row says that it is done: a kill before that has it done again."""
        self._jobs = jobs
        self._folder = folder
        self._order_of = order_of
        self._tidy_up = tidy_up
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.process_id: int | None = None  # of the job that runs

    def start(self) -> None:
        """Begin; jobs that a service left behind are done again."""
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new to see in the queue."""
        self._wake.set()

    def stop(self) -> None:
        """Interrupt the job that runs, which stays queued, and end."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with held_alone(self._folder / JOBS_LOCK_FILE) as is_held:
                    if is_held:
                        self._run_queue()
            except SightlineError as error:
                logger.warning("jobs wait: %s", error)
            except Exception:  # the outermost loop of a thread
                logger.exception("jobs wait")
            self._stopping.wait(_LOOK_EVERY_S)

    def _run_queue(self) -> None:
        for job_id in self._jobs.give_back_all():
            logger.warning("job=%s was left behind by a service that is gone; queued again", job_id)
        while not self._stopping.is_set():
            self._wake.clear()
            job = self._jobs.claim_next()
            if job is None:
                self._wake.wait(_LOOK_EVERY_S)
            else:
                self._do(job)

    def _do(self, job: JobRecord) -> None:
        logger.info("job=%s kind=%s collection=%s attempt=%d begins", job.job_id, job.kind, job.collection, job.num_attempts)
        process = JobProcess(self._order_of(job))
        self.process_id = process.process_id
        course = _Course(progress=job.progress)
        try:
            while not process.has_ended:
                self._listen(job, process, course)
                self._see_whether_to_stop(job, process, course)
        finally:
            process.close()
            self.process_id = None
        self._settle(job, course, exit_code=process.exit_code)

    def _listen(self, job: JobRecord, process: JobProcess, course: _Course) -> None:
        for told in process.read(timeout_s=_READ_S):
            if told.what == "progress" and isinstance(told.value, dict):
                course.progress, course.is_written = told.value, False
            else:
                course.outcome = told
        now_s = time.monotonic()
        if not course.is_written and (process.has_ended or now_s - course.written_s >= _WRITE_EVERY_S):
            self._jobs.note_progress(job.job_id, course.progress)
            course.written_s, course.is_written = now_s, True

    def _see_whether_to_stop(self, job: JobRecord, process: JobProcess, course: _Course) -> None:
        now_s = time.monotonic()
        if course.told_to_stop_s is not None:
            if now_s - course.told_to_stop_s > _STOP_S:
                logger.warning("job=%s does not stop; killing process %d", job.job_id, process.process_id)
                process.kill()
        elif self._stopping.is_set() or self._jobs.state(job.job_id) is not JobState.RUNNING:
            process.interrupt()
            course.told_to_stop_s = now_s

    def _settle(self, job: JobRecord, course: _Course, *, exit_code: int | None) -> None:
        match course.outcome:
            case Told("done", dict() as result):
                self._jobs.finish(job.job_id, result)
                self._tidy_up(job)
            case Told("failed", sentence):
                self._jobs.fail(job.job_id, str(sentence))
            case Told("interrupted"):
                self._jobs.give_back(job.job_id, num_attempts=0)
            case _ if course.told_to_stop_s is not None:
                self._jobs.give_back(job.job_id, num_attempts=0)
            case _:
                self._retry(job, course, exit_code=exit_code)
        logger.info("job=%s %s", job.job_id, self._jobs.state(job.job_id))

    def _retry(self, job: JobRecord, course: _Course, *, exit_code: int | None) -> None:
        num_attempts = 1 if course.progress.get("num_committed") else job.num_attempts
        cause = _cause_of_death(exit_code)
        logger.warning("job=%s: its process %s, attempt %d", job.job_id, cause, num_attempts)
        if num_attempts > MAX_RETRIES:
            self._jobs.fail(job.job_id, f"its process {cause}, {num_attempts} times in a row; retry it once the cause is known")
        else:
            self._jobs.give_back(job.job_id, num_attempts=num_attempts)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code} and told nothing"
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
    return f"was ended by {name}" + (", as the system does when memory runs out" if name == "SIGKILL" else "")
