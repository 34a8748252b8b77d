"""Jobs of a store whose catalogue is on PostgreSQL: done, paused and gone on with, cancelled, and outliving their service."""

import os
import signal
from pathlib import Path

import pytest

from api import open_store
from sightline.settings import Settings
from tests.api.http.jobs_at_work import AtWork, at_work, until, write_pictures, write_texts
from tests.api.http.test_killed_jobs import ask, num_items_at, served

NUM_TEXTS = 20_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sources").mkdir()
    return tmp_path / "sources"


def stopped(work: AtWork) -> bool:
    return work.service.runner.process_id is None


def test_a_folder_is_indexed_and_found(tmp_path: Path, root: Path, tiny_encoder_path: Path, postgres_url: str) -> None:
    pictures = write_pictures(root / "pictures", num_pictures=20)
    store = tmp_path / "store"
    with at_work(store, encoder=tiny_encoder_path, source_roots=(root,), commit_items=8, database_url=postgres_url) as work:
        job = work.queue(kind="index", collection="photos", source=str(pictures))
        done = work.ended(job)

        assert (done["state"], done["error"]) == ("done", None)
        assert (done["result"]["new"], done["result"]["skipped"]) == (20, 1)
        assert (done["progress"]["num_done"], done["progress"]["num_to_do"]) == (21, 21)
        found = work.client.post("/v1/collections/photos/search", json={"text": "a red ball", "top_k": 30}).json()["hits"]
        assert {hit["key"] for hit in found} == {f"{number:04}.jpg" for number in range(20)}
        assert [entry["key"] for entry in work.client.get("/v1/ledger").json()["entries"]] == ["broken.jpg"]
        shown = work.client.get("/v1/settings").json()["store"]["database_url"]
        assert shown.startswith("postgresql")
        for kind in ("compact", "rebuild", "verify"):
            assert work.ended(work.queue(kind=kind, collection="photos"))["state"] == "done"
        sent = work.client.post("/v1/jobs", json={"kind": "verify"}, headers={"Idempotency-Key": "monday"})
        again = work.client.post("/v1/jobs", json={"kind": "verify"}, headers={"Idempotency-Key": "monday"})
        assert sent.json()["job_id"] == again.json()["job_id"]
    assert not (store / "catalogue.sqlite").exists()


def test_a_job_is_paused_resumed_and_cancelled(tmp_path: Path, root: Path, tiny_encoder_path: Path, postgres_url: str) -> None:
    texts = write_texts(root / "notes.txt", num_texts=NUM_TEXTS)
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(root,), database_url=postgres_url) as work:
        job = work.queue(kind="index", collection="notes", source=str(texts))
        path = f"/v1/jobs/{job['job_id']}"
        until(lambda: work.job(job)["progress"].get("num_committed", 0))

        assert work.client.post(f"{path}/pause").json()["state"] == "paused"
        until(lambda: stopped(work))
        num_kept = work.num_items("notes")
        assert 0 < num_kept < NUM_TEXTS

        assert work.client.post(f"{path}/resume").json()["state"] == "queued"
        until(lambda: work.num_items("notes") > num_kept)
        assert work.client.post(f"{path}/cancel").json()["state"] == "cancelled"
        until(lambda: stopped(work))
        assert work.ended(job)["state"] == "cancelled"
        assert work.client.post(f"{path}/resume").status_code == 409
        found = work.client.post("/v1/collections/notes/search", json={"text": "a red ball", "top_k": 5}).json()
        assert len(found["hits"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["told to end", "killed"])
def test_a_service_that_is_started_again_goes_on(
    tmp_path: Path, root: Path, tiny_encoder_path: Path, postgres_url: str, end: signal.Signals
) -> None:
    num_texts, store = 2000, tmp_path / "store"
    texts = write_texts(root / "notes.txt", num_texts=num_texts)
    settings = {"SIGHTLINE_ENCODER": str(tiny_encoder_path), "SIGHTLINE_COMMIT_ITEMS": "100", "SIGHTLINE_DATABASE_URL": postgres_url}
    with served(store, root=root, settings=settings) as (process, port):
        job_id = ask(port, "POST", "/v1/jobs", {"kind": "index", "collection": "default", "source": str(texts)})["job_id"]
        until(lambda: num_items_at(port) >= 100)
        os.kill(process.pid, end)
        process.wait(60)
    with served(store, root=root, settings=settings) as (_, port):
        job = until(lambda: (found := ask(port, "GET", f"/v1/jobs/{job_id}"))["state"] in ("done", "failed") and found)
        assert (job["state"], job["error"]) == ("done", None)
        assert num_items_at(port) == num_texts
        assert len(ask(port, "POST", "/v1/collections/default/search", {"text": "a red ball"})["hits"]) == 10
    with open_store(store, create=False, settings=Settings(store=store, database_url=postgres_url)) as sightline:
        assert sightline.verify() == []
