"""Jobs whose process, or whose whole service, is killed at random moments end as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api import open_store
from api.http.jobs.ordering import order_of
from api.http.jobs.process import JobProcess, Told
from sightline.encoders.composed import ComposedEncoder
from sightline.settings import Settings
from sightline.storage.records import JobState
from tests.api.http.jobs_at_work import DEADLINE_S, at_work, until, write_pictures, write_texts
from tests.api.http.test_uploads import make_collection, picture

NUM_KILLS = 3
ROOT = Path(__file__).resolve().parents[3]


def moments(num_items: int, *, seed: int) -> list[int]:
    """How many items there are when each kill comes: any number up to three fifths, so that there is something left to kill."""
    return sorted(np.random.default_rng(seed).integers(0, num_items * 3 // 5, NUM_KILLS).tolist())


def undisturbed(store: Path, source: Path, *, encoder: Path) -> dict[str, tuple[str, str | None]]:
    """What an indexing that nobody kills leaves."""
    with open_store(store, encoder=str(encoder), settings=Settings(store=store, device="cpu")) as sightline:
        sightline.index(source)
        return items_of(store)


def items_of(store: Path) -> dict[str, tuple[str, str | None]]:
    """Content hash and text by key; the store must be whole."""
    with open_store(store, create=False, settings=Settings(store=store)) as sightline:
        assert sightline.verify() == []
        listing, record = sightline.store.listing, sightline.collection("default")
        items = listing.items(record.collection_id, limit=1_000_000)
        assert sightline.statistics().num_missing_embeddings == 0
        assert sum(sightline.statistics().num_items_by_modality.values()) == len(items)
        return {item.key: (item.content_hash, item.text) for item in items}


def source_of(kind: str, folder: Path) -> tuple[Path, int, int]:
    """A source, its items, and how many of them a commit takes."""
    folder.mkdir()
    if kind == "texts":
        return write_texts(folder / "notes.txt", num_texts=2000), 2000, 100
    return write_pictures(folder / "pictures", num_pictures=60), 60, 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_a_job_whose_process_is_killed(tmp_path: Path, tiny_encoder_path: Path, kind: str) -> None:
    source, num_items, commit_items = source_of(kind, tmp_path / "sources")
    expected = undisturbed(tmp_path / "undisturbed", source, encoder=tiny_encoder_path)
    killed: set[int] = set()
    store = tmp_path / "store"
    with at_work(store, encoder=tiny_encoder_path, source_roots=(tmp_path,), commit_items=commit_items) as work:
        job = work.queue(kind="index", collection="default", source=str(source))
        for moment in moments(num_items, seed=1):
            runner = work.service.runner
            process_id = until(lambda: work.num_items() >= moment and runner.process_id not in {None, *killed} and runner.process_id)  # noqa: B023
            os.kill(process_id, signal.SIGKILL)
            killed.add(process_id)
        assert work.ended(job)["state"] == "done"
    assert len(killed) == NUM_KILLS
    assert items_of(store) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_a_service_that_is_killed(tmp_path: Path, tiny_encoder_path: Path, kind: str) -> None:
    source, num_items, commit_items = source_of(kind, tmp_path / "sources")
    expected = undisturbed(tmp_path / "undisturbed", source, encoder=tiny_encoder_path)
    store = tmp_path / "store"
    settings = {"SIGHTLINE_ENCODER": str(tiny_encoder_path), "SIGHTLINE_COMMIT_ITEMS": str(commit_items), "SIGHTLINE_BATCH_IMAGES": "4"}
    job_id = None
    for moment in moments(num_items, seed=2):
        with served(store, root=tmp_path, settings=settings) as (process, port):
            body = {"kind": "index", "collection": "default", "source": str(source)}
            job_id = job_id or ask(port, "POST", "/v1/jobs", body)["job_id"]
            until(lambda: num_items_at(port) >= moment)  # noqa: B023
            os.kill(process.pid, signal.SIGKILL)
    with served(store, root=tmp_path, settings=settings) as (_, port):
        job = until(lambda: (found := ask(port, "GET", f"/v1/jobs/{job_id}"))["state"] in ("done", "failed") and found)
    assert (job["state"], job["error"]) == ("done", None)
    assert items_of(store) == expected


def test_a_job_over_an_upload_whose_process_died_before_it_said_that_all_was_done(
    tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder
) -> None:
    """Its process is started by hand: whatever it tells, nobody hears it."""
    store = tmp_path / "store"
    with at_work(store, encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)
        work.service.runner.stop()
        files = [("files", ("a.png", picture("red"))), ("files", ("b.png", b"broken"))]
        job = work.client.post("/v1/collections/default/items", files=files, params={"when": "later"}).json()["job"]
        row = work.service.sightline.store.jobs.get(job["job_id"])
        process = JobProcess(order_of(row, sightline=work.service.sightline, settings=work.service.settings))
        told: list[Told] = []
        while not process.has_ended:
            told += process.read(timeout_s=1.0)
        process.close()
        assert told[-1].what == "done"
        assert set(work.items()) == {"a.png"}
    with at_work(store, encoder=tiny_encoder_path, source_roots=()) as work:
        done = work.ended(job)
        assert (done["state"], done["error"]) == ("done", None)
        assert (done["result"]["num_unchanged"], done["result"]["num_failed"]) == (1, 1)
        assert set(work.items()) == {"a.png"}
        entries = work.client.get("/v1/ledger").json()["entries"]
        assert [(entry["key"], entry["resolved_at"] is None) for entry in entries] == [("b.png", False), ("b.png", True)]
        until(lambda: not list(store.glob("uploads/*/incoming/*")))


@contextmanager
def served(store: Path, *, root: Path, settings: dict[str, str]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """`sightline serve` as a process of its own, and its port."""
    environment = {**os.environ, "SIGHTLINE_SERVICE_SOURCE_ROOTS": json.dumps([str(root)]), "SIGHTLINE_DEVICE": "cpu", **settings}
    command = [
        sys.executable,
        "-c",
        "import sys; from api.cli import main; sys.exit(main())",
        "serve",
        "--store",
        str(store),
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        found = next(filter(None, (re.search(r"serving at http://127\.0\.0\.1:(\d+)/", line) for line in lines)))
        yield process, int(found[1])
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        process.stderr.close()


def ask(port: int, method: str, path: str, body: object = None) -> Any:
    """The JSON of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def num_items_at(port: int) -> int:
    """Of the default collection; 0 before it is there."""
    return sum(ask(port, "GET", "/v1/collections/default").get("num_items", {}).values())


@pytest.mark.slow
def test_a_service_that_ends_waits_for_nobody_who_watches(tmp_path: Path, tiny_encoder_path: Path) -> None:
    settings = {"SIGHTLINE_ENCODER": str(tiny_encoder_path)}

    with served(tmp_path / "store", root=tmp_path, settings=settings) as (process, port):
        with open_store(tmp_path / "store", create=False) as sightline, sightline.store.writer():  # so that the job goes on waiting
            source = write_texts(tmp_path / "notes.txt", num_texts=10)
            job = ask(port, "POST", "/v1/jobs", {"kind": "index", "collection": "default", "source": str(source)})
            watching = HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
            watching.request("GET", f"/v1/jobs/{job['job_id']}/events")
            stream = watching.getresponse()
            assert stream.readline().startswith(b"retry:")
            until(lambda: ask(port, "GET", f"/v1/jobs/{job['job_id']}")["state"] == "running")
            process.terminate()
            assert b"event: end" not in stream.read(), "the job goes on later"
            process.wait(DEADLINE_S)
        watching.close()
    with open_store(tmp_path / "store", create=False) as sightline:
        assert sightline.store.jobs.get(job["job_id"]).state is JobState.QUEUED
