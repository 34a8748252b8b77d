"""What uploads leave on disk when their service dies is gone at the next start, and nothing else is; no name leads out of the store."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api import Sightline
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings
from api.http.uploads.batches import Batch
from sightline.encoders.composed import ComposedEncoder
from sightline.locations import upload_path, uploads_folder
from tests.api.http.jobs_at_work import DEADLINE_S, at_work, until
from tests.api.http.test_killed_jobs import ROOT, ask, served
from tests.api.http.test_uploads import NDJSON, make_collection, originals, picture, send, statuses


@contextmanager
def started(sightline: Sightline) -> Iterator[TestClient]:
    """A service from its start to its end."""
    app = create_app(Service(sightline, load_service_settings()))
    with TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 50_000)) as client:
        yield client


def uploads_of(sightline: Sightline) -> Path:
    return uploads_folder(sightline.store.folder, collection_id=sightline.collection("default").collection_id)


def batches(sightline: Sightline) -> set[str]:
    return {path.name for path in (sightline.store.folder / "uploads").glob("*/incoming/*")}


def take_over(sightline: Sightline, content: bytes) -> Path:
    """As an upload does right before its commit."""
    collection_id = sightline.collection("default").collection_id
    path = upload_path(sightline.store.folder, collection_id=collection_id, sha256=hashlib.sha256(content).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_start_removes_what_a_service_that_died_left_behind(sightline: Sightline) -> None:
    with started(sightline) as client:
        send(client, ("a.png", picture("red")))
    (kept,) = originals(sightline)
    left = Batch.begin(uploads_of(sightline))
    (left.folder / "part-00000").write_bytes(picture("green"))
    orphan = take_over(sightline, picture("blue"))
    with started(sightline) as client:
        assert batches(sightline) == set()
        assert originals(sightline) == [kept]
        assert not orphan.exists()
        item = next(item for item in client.get("/v1/collections/default/items").json()["items"] if item["key"] == "a.png")
        assert client.get(f"/v1/collections/default/items/{item['item_id']}/original").content == picture("red")


def test_a_start_beside_another_service_leaves_its_uploads_alone(sightline: Sightline) -> None:
    with started(sightline):
        arriving = Batch.begin(uploads_of(sightline))
        with started(sightline):
            assert batches(sightline) == {arriving.name}
        assert batches(sightline) == {arriving.name}
    with started(sightline):
        assert batches(sightline) == set()


def test_where_another_process_writes_it_is_left_to_a_later_start(sightline: Sightline) -> None:
    left = Batch.begin(uploads_of(sightline))
    with sightline.store.writer(), started(sightline) as client:
        assert client.get("/livez").status_code == 200
        assert batches(sightline) == {left.name}
    with started(sightline):
        assert batches(sightline) == set()


def test_what_a_job_still_needs_is_kept(tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)
        work.service.runner.stop()
        job = work.client.post(
            "/v1/collections/default/items", files=[("files", ("a.png", picture("red")))], params={"when": "later"}
        ).json()["job"]
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        assert work.ended(job)["result"]["num_added"] == 1
        assert batches(work.service.sightline) == set()


@pytest.mark.parametrize("is_beside_one_left_behind", [False, True])
def test_a_job_that_was_killed_after_it_had_taken_pictures_over_is_done_again(
    tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder, is_beside_one_left_behind: bool
) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)
        work.service.runner.stop()
        files = [("files", (f"{colour}.png", picture(colour))) for colour in ("red", "green")]
        job = work.client.post("/v1/collections/default/items", files=files, params={"when": "later"}).json()["job"]
        (part, _) = sorted(uploads_of(work.service.sightline).glob("incoming/*/part-*"))
        taken_over = take_over(work.service.sightline, part.read_bytes())
        part.unlink()
        if is_beside_one_left_behind:
            Batch.begin(uploads_of(work.service.sightline))
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        done = work.ended(job)
        assert (done["state"], done["result"]["num_added"], done["result"]["num_failed"]) == ("done", 2, 0)
        assert taken_over.exists()
        assert len(originals(work.service.sightline)) == 2


@pytest.mark.slow
def test_a_service_that_is_killed_amid_an_upload_leaves_nothing_for_long(tmp_path: Path, tiny_encoder_path: Path) -> None:
    store, settings = tmp_path / "store", {"SIGHTLINE_ENCODER": str(tiny_encoder_path)}
    line = json.dumps({"key": "a", "text": "a red ball"}).encode() + b"\n"
    with served(store, root=tmp_path, settings=settings) as (process, port):
        assert ask(port, "PUT", "/v1/collections/default")["name"] == "default"
        connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        connection.putrequest("POST", "/v1/collections/default/items")
        connection.putheader("Content-Type", NDJSON["Content-Type"])
        connection.putheader("Content-Length", str(2 * len(line)))
        connection.endheaders(line)
        until(lambda: list(store.glob("uploads/*/incoming/*/lines.jsonl")))
        os.kill(process.pid, signal.SIGKILL)
        process.wait(60)
        connection.close()
    assert list(store.glob("uploads/*/incoming/*"))
    with served(store, root=tmp_path, settings=settings) as (_, port):
        assert ask(port, "GET", "/v1/collections/default")["num_items"] == {}
        assert list(store.glob("uploads/*/incoming/*")) == []


DIES_ON_THE_WAY = """
import os, signal, sys
from pathlib import Path
from starlette.testclient import TestClient
from api import open_store
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings
from tests.api.http.test_uploads import picture, send
from tests.histogram_encoder import HistogramEncoder

store, what, item_id = sys.argv[1:]
uploads = str(Path(store) / "uploads")

def die(event, arguments):
    removing = event in ("os.remove", "shutil.rmtree") and str(arguments[0]).startswith(uploads) and "incoming" not in str(arguments[0])
    if removing:
        os.kill(os.getpid(), signal.SIGKILL)

with open_store(store, encoder=HistogramEncoder()) as sightline:
    with TestClient(create_app(Service(sightline, load_service_settings())), client=("127.0.0.1", 50_000)) as client:
        sys.addaudithook(die)
        if what == "delete an item":
            client.delete(f"/v1/collections/default/items/{item_id}")
        elif what == "replace an item":
            send(client, ("a.png", picture("blue")))
        else:
            client.delete("/v1/collections/default")
"""
"""Kills itself right before the first file below `uploads` is removed, which is after the commit that it is removed for."""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["delete an item", "replace an item", "delete the collection"])
def test_what_a_kill_after_a_commit_leaves_is_removed_at_the_next_start(sightline: Sightline, what: str) -> None:
    with started(sightline) as client:
        sent = send(client, ("a.png", picture("red")), ("b.png", picture("green"))).json()["items"]
    folder, store = uploads_of(sightline), str(sightline.store.folder)
    kept_if_any = {"delete an item": {"green"}, "replace an item": {"green", "blue"}, "delete the collection": set()}[what]
    program = [sys.executable, "-c", DIES_ON_THE_WAY, store, what, str(sent[0]["item_id"])]
    died = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert died.returncode == -signal.SIGKILL, died.stderr
    left = {path.name for path in originals(sightline)}
    assert hashlib.sha256(picture("red")).hexdigest() in left, "it died before it removed the file"

    with started(sightline) as client:
        if what == "delete the collection":
            assert client.get("/v1/collections/default").status_code == 404
            assert not folder.exists()
            return
        keys = {item["key"] for item in client.get("/v1/collections/default/items").json()["items"]}
        assert ("a.png" in keys) == (what == "replace an item")
    assert {path.name for path in originals(sightline)} == {hashlib.sha256(picture(colour)).hexdigest() for colour in kept_if_any}


def test_what_was_deleted_is_announced_no_longer_than_needed(sightline: Sightline) -> None:
    with started(sightline) as client:
        (sent,) = send(client, ("a.png", picture("red"))).json()["items"]
        assert client.delete(f"/v1/collections/default/items/{sent['item_id']}").status_code == 200
        assert originals(sightline) == []


@pytest.mark.parametrize(
    "name",
    [
        "/etc/cron.d/evil",
        "../evil.png",
        "a/../../evil.png",
        "..",
        "a/..",
        "..\\evil.png",
        "C:\\evil.png",
        "\\\\server\\evil.png",
        "//server/evil.png",
        "file:///../evil.png",
        "evil\x00.png",
        "evil\n.png",
        "\u202egnp.evil",
        "",
        " ",
        "x" * 2000,
    ],
)
@pytest.mark.parametrize("in_details", [False, True], ids=["as its name", "in the details"])
def test_no_name_of_a_file_leads_out_of_the_store(
    sightline: Sightline, client: TestClient, tmp_path: Path, name: str, in_details: bool
) -> None:
    def outside() -> set[Path]:
        return {path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(sightline.store.folder)}

    before = outside()
    files = [("evil.png" if in_details else name, picture("red")), ("good.png", picture("green"))]
    response = send(client, *files, details=[{"key": name}, {}] if in_details else None)
    assert response.status_code in (200, 422), response.text
    if response.status_code == 200:
        found = statuses(response)
        assert found.pop("good.png") == "added"
        if name.isprintable() or in_details:  # the client escapes what a header cannot hold, which makes a name of it
            assert set(found.values()) <= {"failed"}
    assert outside() == before
    kept = {hashlib.sha256(picture(colour)).hexdigest() for colour in ("red", "green")}
    assert {path.name for path in originals(sightline)} <= kept


@pytest.mark.parametrize("name", ["2024/dog.png", "...", "a..b.png", "~/dog.png", "$HOME.png", "%2e%2e/dog.png", "nul", "C:dog.png", "-rf"])
def test_a_harmless_name_is_a_key_and_no_path(sightline: Sightline, client: TestClient, name: str) -> None:
    (item,) = send(client, ("any.png", picture("red")), details=[{"key": name}]).json()["items"]
    assert (item["key"], item["status"]) == (name, "added")
    (original,) = originals(sightline)
    assert original == take_over(sightline, picture("red"))
    assert client.get(f"/v1/collections/default/items/{item['item_id']}/original").content == picture("red")
