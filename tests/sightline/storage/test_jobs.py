"""The queue of jobs: one claim a job, transitions that are allowed, and requests that are sent twice."""

import threading
from dataclasses import replace

import pytest

from sightline.errors import JobConflict, JobNotFound
from sightline.storage.jobs import JobQueue, NewJob
from sightline.storage.records import JobState
from sightline.storage.store import Store

INDEX = NewJob("index", {"source": "/pictures", "prune": False}, collection="photos", created_by="ann (1)")


@pytest.fixture
def jobs(store: Store) -> JobQueue:
    return store.jobs


def in_state(jobs: JobQueue, state: JobState) -> str:
    """The id of a new job that is in a state."""
    job_id = jobs.enqueue(INDEX).job_id
    match state:
        case JobState.QUEUED:
            pass
        case JobState.PAUSED:
            jobs.pause(job_id)
        case JobState.CANCELLED:
            jobs.cancel(job_id)
        case _:
            claimed = jobs.claim_next()
            assert claimed is not None
            assert claimed.job_id == job_id
    if state is JobState.DONE:
        jobs.finish(job_id, {"num_new": 3})
    if state is JobState.FAILED:
        jobs.fail(job_id, "no such folder")
    assert jobs.get(job_id).state is state
    return job_id


def test_a_job_is_kept_as_it_was_given(jobs: JobQueue) -> None:
    job = jobs.enqueue(INDEX)
    assert (job.kind, job.spec, job.collection, job.created_by) == ("index", INDEX.spec, "photos", "ann (1)")
    assert (job.state, job.progress, job.result, job.error, job.num_attempts) == (JobState.QUEUED, {}, {}, None, 0)
    assert jobs.get(job.job_id) == job


def test_the_oldest_comes_first_and_once(jobs: JobQueue) -> None:
    job_ids = [jobs.enqueue(INDEX).job_id for _ in range(3)]
    claimed = [jobs.claim_next() for _ in range(4)]
    assert [job and job.job_id for job in claimed] == [*job_ids, None]
    assert all(job.state is JobState.RUNNING and job.num_attempts == 1 and job.started_at for job in claimed if job is not None)


def test_of_many_that_claim_at_once_each_gets_another(jobs: JobQueue) -> None:
    job_ids = {jobs.enqueue(INDEX).job_id for _ in range(8)}
    claimed: list[str] = []
    start = threading.Barrier(8)

    def claim() -> None:
        start.wait()
        while (job := jobs.claim_next()) is not None:
            claimed.append(job.job_id)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed))
    while (job := jobs.claim_next()) is not None:  # one whose row was another's at that moment was left to the next claim
        claimed.append(job.job_id)
    assert set(claimed) == job_ids


def test_a_request_sent_twice_is_one_job(jobs: JobQueue) -> None:
    first = jobs.enqueue(replace(INDEX, idempotency_key="monday"))
    assert jobs.enqueue(replace(INDEX, idempotency_key="monday", created_by="bob (2)")) == first
    assert len(jobs.page()) == 1


@pytest.mark.parametrize("other", [{"kind": "compact"}, {"collection": "others"}, {"spec": {"source": "/pictures", "prune": True}}])
def test_another_request_with_the_same_key_is_refused(jobs: JobQueue, other: dict[str, object]) -> None:
    jobs.enqueue(replace(INDEX, idempotency_key="monday"))
    with pytest.raises(JobConflict, match="'monday' was used"):
        jobs.enqueue(replace(INDEX, idempotency_key="monday", **other))  # type: ignore[arg-type]  # of `NewJob`


ALLOWED = {
    ("pause", JobState.QUEUED): JobState.PAUSED,
    ("pause", JobState.RUNNING): JobState.PAUSED,
    ("pause", JobState.PAUSED): JobState.PAUSED,
    ("resume", JobState.PAUSED): JobState.QUEUED,
    ("resume", JobState.QUEUED): JobState.QUEUED,
    ("cancel", JobState.QUEUED): JobState.CANCELLED,
    ("cancel", JobState.RUNNING): JobState.CANCELLED,
    ("cancel", JobState.PAUSED): JobState.CANCELLED,
    ("cancel", JobState.CANCELLED): JobState.CANCELLED,
    ("retry", JobState.FAILED): JobState.QUEUED,
    ("retry", JobState.CANCELLED): JobState.QUEUED,
    ("retry", JobState.QUEUED): JobState.QUEUED,
}


@pytest.mark.parametrize("state", list(JobState))
@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry"])
def test_transitions(jobs: JobQueue, action: str, state: JobState) -> None:
    job_id = in_state(jobs, state)
    expected = ALLOWED.get((action, state))
    if expected is not None:
        assert getattr(jobs, action)(job_id).state is expected
    else:
        with pytest.raises(JobConflict, match=f"is {state} and cannot"):
            getattr(jobs, action)(job_id)
        assert jobs.state(job_id) is state


@pytest.mark.parametrize("action", ["get", "pause", "resume", "cancel", "retry"])
def test_a_job_that_is_not_there(jobs: JobQueue, action: str) -> None:
    with pytest.raises(JobNotFound, match="'none'"):
        getattr(jobs, action)("none")


def test_an_end_has_a_time_and_a_retry_forgets_it(jobs: JobQueue) -> None:
    failed = jobs.get(in_state(jobs, JobState.FAILED))
    assert (failed.error, failed.finished_at is not None) == ("no such folder", True)
    again = jobs.retry(failed.job_id)
    assert (again.error, again.finished_at, again.num_attempts) == (None, None, 0)


def test_what_ends_while_it_is_told_to_pause_is_done(jobs: JobQueue) -> None:
    job_id = in_state(jobs, JobState.RUNNING)
    jobs.pause(job_id)
    jobs.finish(job_id, {"num_new": 3})
    assert (jobs.get(job_id).state, jobs.get(job_id).result) == (JobState.DONE, {"num_new": 3})


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.CANCELLED])
def test_what_was_paused_or_cancelled_is_not_queued_by_its_runner(jobs: JobQueue, state: JobState) -> None:
    job_id = in_state(jobs, state)
    jobs.give_back(job_id, num_attempts=1)
    jobs.note_progress(job_id, {"num_done": 1})
    assert (jobs.state(job_id), jobs.get(job_id).progress) == (state, {})


def test_jobs_of_a_service_that_is_gone_are_queued_again(jobs: JobQueue) -> None:
    running, paused = in_state(jobs, JobState.RUNNING), in_state(jobs, JobState.PAUSED)
    assert jobs.give_back_all() == [running]
    assert (jobs.state(running), jobs.get(running).num_attempts, jobs.state(paused)) == (JobState.QUEUED, 0, JobState.PAUSED)


def test_what_may_still_be_done(jobs: JobQueue) -> None:
    for number, state in enumerate((JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED)):
        jobs.enqueue(replace(INDEX, kind="upload", spec={"batch": str(number)}))
        job_id = jobs.page(limit=1)[0].job_id
        match state:
            case JobState.DONE:
                jobs.finish(job_id, {})
            case JobState.FAILED:
                jobs.fail(job_id, "broken")
            case JobState.CANCELLED:
                jobs.cancel(job_id)
            case _:
                jobs.pause(job_id)
    jobs.enqueue(INDEX)
    assert sorted(spec["batch"] for spec in jobs.specs_to_do("upload")) == ["1", "3"]


def test_pages(jobs: JobQueue) -> None:
    job_ids = [jobs.enqueue(INDEX).job_id for _ in range(5)]
    jobs.cancel(job_ids[2])
    first = jobs.page(limit=2)
    assert [job.job_id for job in first] == job_ids[:2:-1]
    assert [job.job_id for job in jobs.page(before=first[-1].job_id)] == job_ids[2::-1]
    assert [job.job_id for job in jobs.page(state=JobState.CANCELLED)] == [job_ids[2]]
    assert jobs.page(collection="others") == []
