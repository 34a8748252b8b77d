"""`sightline serve` that is told to end finishes what it began, and its exit code says that all is well."""

import json
import os
import signal
import socket
from http.client import HTTPConnection
from pathlib import Path

import pytest

from api import open_store
from benchmarks.service_process import serving
from sightline.storage.records import JobState
from tests.api.http.jobs_at_work import until, write_texts
from tests.api.http.live import DEADLINE_S

LINES = [json.dumps({"key": f"note {number}", "text": f"{number} red cubes"}).encode() + b"\n" for number in range(2)]


@pytest.fixture
def store(tmp_path: Path, tiny_encoder_path: Path) -> Path:
    """Holds ten texts."""
    with open_store(tmp_path / "store", encoder=str(tiny_encoder_path)) as sightline:
        sightline.index(write_texts(tmp_path / "texts.txt", num_texts=10))
    return tmp_path / "store"


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_an_upload_that_has_begun_is_indexed_before_the_end(store: Path, sent: signal.Signals, exit_code: int) -> None:
    with serving(store) as (port, process):
        connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        connection.putrequest("POST", "/v1/collections/default/items")
        connection.putheader("Content-Type", "application/x-ndjson")
        connection.putheader("Content-Length", str(sum(map(len, LINES))))
        connection.endheaders(LINES[0])
        until(lambda: list((store / "uploads").glob("*/incoming/*/lines.jsonl")))
        os.kill(process.pid, sent)
        until(lambda: is_refused(port))
        connection.send(LINES[1])
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["num_added"]) == (200, 2)
        connection.close()
        assert process.wait(timeout=60) == exit_code
    with open_store(store, create=False) as sightline:
        assert sightline.verify() == []
        assert sightline.statistics().num_items_by_modality == {"text": 12}
    assert not list((store / "uploads").glob("*/incoming/*"))


@pytest.mark.slow
def test_a_job_that_runs_stays_queued(store: Path, tmp_path: Path) -> None:
    source = write_texts(tmp_path / "many.txt", num_texts=20_000)
    body = json.dumps({"kind": "index", "collection": "default", "source": str(source)})
    with serving(store, settings={"source_roots": json.dumps([str(tmp_path)])}) as (port, process):
        connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        connection.request("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
        job_id = json.loads(connection.getresponse().read())["job_id"]
        connection.close()
        with open_store(store, create=False) as sightline:
            until(lambda: sightline.store.jobs.get(job_id).progress.get("num_done", 0))
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    with open_store(store, create=False) as sightline:
        assert sightline.store.jobs.get(job_id).state is JobState.QUEUED
        assert sightline.verify() == []
