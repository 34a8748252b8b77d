"""Jobs over HTTP: queued, done by a process of their own, paused, watched, and refused."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.http.jobs.roots import require_within
from sightline.errors import InvalidSource
from sightline.storage.jobs import NewJob
from sightline.types import Scope
from tests.api.http.jobs_at_work import AtWork, at_work, until, write_pictures, write_texts
from tests.api.http.keys import bearer, new_key

NO_JOB = "0" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sources").mkdir()
    return tmp_path / "sources"


@pytest.fixture
def work(tmp_path: Path, root: Path, tiny_encoder_path: Path) -> Iterator[AtWork]:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(root,)) as work:
        yield work


@pytest.fixture(scope="module")
def idle_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that jobs may read, with a link out of it and one that leads to itself."""
    root = tmp_path_factory.mktemp("sources")
    (root / "outside").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    (root / "ring").symlink_to(root / "ring")
    return root


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory, idle_root: Path, tiny_encoder_path: Path) -> Iterator[AtWork]:
    """A service for all tests that ask it for nothing that it does."""
    with at_work(tmp_path_factory.mktemp("idle") / "store", encoder=tiny_encoder_path, source_roots=(idle_root,)) as work:
        yield work


def test_an_indexing_job_from_its_queue_to_its_end(work: AtWork, root: Path) -> None:
    pictures = write_pictures(root / "pictures", num_pictures=20)

    job = work.queue(kind="index", collection="photos", source=str(pictures))
    assert (job["state"], job["kind"], job["collection"], job["created_by"]) == ("queued", "index", "photos", "anyone on this machine")
    done = work.ended(job)

    assert (done["state"], done["error"]) == ("done", None)
    assert (done["result"]["new"], done["result"]["skipped"]) == (20, 1)
    assert (done["progress"]["num_done"], done["progress"]["num_to_do"]) == (21, 21)
    assert len(work.items("photos")) == 20

    runs = work.client.get("/v1/runs", params={"collection": "photos"}).json()["runs"]
    assert [(run["state"], run["counts"]["new"]) for run in runs] == [("finished", 20)]
    (entry,) = work.client.get("/v1/ledger").json()["entries"]
    assert (entry["key"], entry["collection"], entry["error_class"]) == ("broken.jpg", "photos", "UnreadableImage")
    retried = work.client.post(f"/v1/jobs/{job['job_id']}/retry").json()
    assert retried["job_id"] != job["job_id"]
    assert retried["spec"]["retry_skipped"]
    assert work.ended(retried)["result"]["skipped"] == 1


def test_maintenance_jobs(work: AtWork, root: Path) -> None:
    texts = write_texts(root / "notes.txt", num_texts=250)
    work.ended(work.queue(kind="index", collection="notes", source=str(texts)))
    num_segments = work.client.get("/v1/collections/notes").json()["num_segments"]
    assert num_segments >= 3

    compacted = work.ended(work.queue(kind="compact", collection="notes"))
    rebuilt = work.ended(work.queue(kind="rebuild", collection="notes"))
    verified = work.ended(work.queue(kind="verify"))
    patched = work.ended(work.queue(kind="patches", collection="notes"))

    assert compacted["result"]["merged_segments"] == num_segments
    assert rebuilt["result"]["merged_segments"] == 1
    assert verified["result"] == {"num_findings": 0, "findings": []}
    assert patched["state"] == "failed"
    assert "fusion encoder" in patched["error"]
    assert [job["kind"] for job in work.client.get("/v1/jobs?limit=3").json()["jobs"]] == ["patches", "verify", "rebuild"]


def test_a_bank_of_queries_is_made_from_a_file_and_from_captions(work: AtWork, root: Path) -> None:
    pictures = write_pictures(root / "pictures", num_pictures=4)
    (pictures / "0000.txt").write_text("a red ball")
    work.ended(work.queue(kind="index", collection="photos", source=str(pictures)))
    asked = write_texts(root / "asked.txt", num_texts=5)

    from_file = work.ended(work.queue(kind="hubness", collection="photos", source=str(asked)))
    assert (from_file["state"], from_file["error"]) == ("done", None)
    (bank,) = from_file["result"]["banks"]
    assert (bank["modality"], bank["num_queries"], bank["num_items"], bank["strength"]) == ("image", 5, 4, 0.5)
    assert work.client.get("/v1/collections/photos").json()["hubness"] == {
        "image": {"strength": 0.5, "num_queries": 5, "origin": "5 texts of asked.txt"}
    }
    hits = work.client.post("/v1/collections/photos/search", json={"text": "a red ball", "rerank_depth": 0}).json()["hits"]
    assert [hit["adjusted_similarity"] is not None for hit in hits] == [True] * 4
    of_captions = work.ended(work.queue(kind="hubness", collection="photos", queries="captions"))
    assert of_captions["result"]["banks"][0]["origin"] == "1 caption"
    of_encoder = work.ended(work.queue(kind="hubness", collection="photos", queries="encoder"))
    assert of_encoder["state"] == "failed"
    assert "brings no bank of queries" in of_encoder["error"]


def test_events_come_in_order_and_end(work: AtWork, root: Path) -> None:
    texts = write_texts(root / "notes.txt", num_texts=500)
    job = work.queue(kind="index", collection="notes", source=str(texts))
    stream = work.client.get(f"/v1/jobs/{job['job_id']}/events")

    assert stream.headers["content-type"].startswith("text/event-stream")
    names = [line.removeprefix("event: ") for line in stream.text.splitlines() if line.startswith("event: ")]
    assert names[-1] == "end"
    assert names.count("end") == 1
    assert set(names[:-1]) <= {"progress"}


def test_a_paused_job_keeps_what_it_has_and_goes_on(work: AtWork, root: Path) -> None:
    texts = write_texts(root / "notes.txt", num_texts=20_000)
    job = work.queue(kind="index", collection="notes", source=str(texts))
    until(lambda: work.job(job)["progress"].get("num_committed", 0))

    assert work.client.post(f"/v1/jobs/{job['job_id']}/pause").json()["state"] == "paused"
    until(lambda: work.service.runner.process_id is None)
    num_kept = len(work.items("notes"))
    assert 0 < num_kept < 20_000
    assert work.client.get("/v1/runs").json()["runs"][0]["state"] == "interrupted"

    assert work.client.post(f"/v1/jobs/{job['job_id']}/resume").json()["state"] == "queued"
    until(lambda: len(work.items("notes")) > num_kept)
    assert work.client.post(f"/v1/jobs/{job['job_id']}/cancel").json()["state"] == "cancelled"
    until(lambda: work.service.runner.process_id is None)
    assert work.ended(job)["state"] == "cancelled"
    assert work.client.post(f"/v1/jobs/{job['job_id']}/resume").status_code == 409


def test_a_job_waits_while_another_process_writes(work: AtWork, root: Path) -> None:
    texts = write_texts(root / "notes.txt", num_texts=10)
    with work.service.sightline.store.writer():
        job = work.queue(kind="index", collection="notes", source=str(texts))
        until(lambda: work.job(job)["progress"].get("stage") == "waiting")
        assert "is being written by" in work.job(job)["progress"]["waiting_for"]
    assert work.ended(job)["state"] == "done"


def test_a_process_that_is_killed_again_and_again_fails(work: AtWork, root: Path) -> None:
    texts = write_texts(root / "notes.txt", num_texts=10)
    killed: set[int] = set()
    with work.service.sightline.store.writer():  # so that nothing is committed meanwhile
        job = work.queue(kind="index", collection="notes", source=str(texts))
        for _ in range(4):
            process_id = until(lambda: work.service.runner.process_id not in {None, *killed} and work.service.runner.process_id)
            killed.add(process_id)
            os.kill(process_id, signal.SIGKILL)
        failed = work.ended(job)
    assert (failed["state"], failed["num_attempts"]) == ("failed", 4)
    assert "was ended by SIGKILL" in failed["error"]

    assert work.client.post(f"/v1/jobs/{job['job_id']}/retry").json()["job_id"] == job["job_id"]
    assert work.ended(job)["state"] == "done"


def test_a_request_sent_twice_is_one_job(work: AtWork) -> None:
    work.service.runner.stop()
    answers = [work.client.post("/v1/jobs", json={"kind": "verify"}, headers={"Idempotency-Key": "monday"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    other = work.client.post("/v1/jobs", json={"kind": "verify", "collection": None}, headers={"Idempotency-Key": "monday"})
    assert other.json() == answers[0].json()
    work.service.sightline.store.create_collection("a", encoder_name="e", encoder_fingerprint="f", embedding_dim=4)
    refused = work.client.post("/v1/jobs", json={"kind": "verify", "collection": "a"}, headers={"Idempotency-Key": "monday"})
    assert (refused.status_code, refused.json()["type"]) == (409, "JobConflict")


def test_a_service_that_ends_leaves_its_job_queued(tmp_path: Path, root: Path, tiny_encoder_path: Path) -> None:
    texts = write_texts(root / "notes.txt", num_texts=20_000)
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(root,)) as work:
        job = work.queue(kind="index", collection="notes", source=str(texts))
        until(lambda: work.job(job)["progress"].get("num_committed", 0))
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        failed = work.ended(job)
    assert failed["num_attempts"] == 1
    assert "SIGHTLINE_SERVICE_SOURCE_ROOTS" in failed["error"], "the settings of the service that does it count"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "index", "collection": "a", "source": "/etc"}, 422),
        ({"kind": "index", "collection": "a", "source": "{root}/../../etc"}, 422),
        ({"kind": "index", "collection": "a", "source": "{root}/outside"}, 422),
        ({"kind": "index", "collection": "a", "source": "{root}/outside/{{0..3}}.tar"}, 422),
        ({"kind": "index", "collection": "a", "source": "relative"}, 422),
        ({"kind": "index", "collection": "a", "source": "{root}/" + "a" * 4000}, 422),
        ({"kind": "index", "collection": "a", "source": "{root}/ring"}, 422),
        ({"kind": "index", "collection": "a", "source": "~/pictures"}, 422),
        ({"kind": "index", "collection": "a", "source": "file:///etc"}, 422),
        ({"kind": "index", "collection": "a", "source": "{root}/\u0000"}, 422),
        ({"kind": "index", "collection": "", "source": "{root}"}, 422),
        ({"kind": "index", "collection": "a", "source": "{root}", "encoder": "x"}, 422),
        ({"kind": "upload", "collection": "a", "batch": "../../x"}, 422),
        ({"kind": "sweep"}, 422),
        ({"kind": "compact", "collection": "none"}, 404),
        ({"kind": "hubness", "collection": "none", "queries": "captions"}, 404),
        ({"kind": "hubness", "collection": "none"}, 422),
        ({"kind": "hubness", "collection": "none", "queries": "captions", "source": "{root}/asked.txt"}, 422),
        ({"kind": "hubness", "collection": "none", "queries": "everybody"}, 422),
        ({"kind": "hubness", "collection": "none", "source": "/etc/passwd"}, 422),
        ({"kind": "hubness", "collection": "none", "source": "{root}/asked.txt"}, 404),
        ({}, 422),
        ([], 422),
    ],
)
def test_what_is_no_job(idle: AtWork, idle_root: Path, body: object, status: int) -> None:
    if isinstance(body, dict) and "source" in body:
        body = {**body, "source": body["source"].replace("{root}", str(idle_root)).replace("{{", "{").replace("}}", "}")}
    response = idle.client.post("/v1/jobs", json=body)
    assert response.status_code == status, response.text
    assert response.json()["detail"]
    assert idle.client.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("job_id", [NO_JOB, "1", "..%2fkeys", "x" * 32])
@pytest.mark.parametrize("action", ["", "/pause", "/resume", "/cancel", "/retry", "/events"])
def test_a_job_that_is_not_there(idle: AtWork, job_id: str, action: str) -> None:
    path = f"/v1/jobs/{job_id}{action}"
    response = idle.client.get(path) if action in ("", "/events") else idle.client.post(path)
    assert response.status_code == (404 if job_id in (NO_JOB, "..%2fkeys") else 422), response.text


def test_jobs_follow_a_collection_that_is_renamed(tmp_path: Path, root: Path, tiny_encoder_path: Path) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(root,)) as work:
        work.service.runner.stop()
        work.client.put("/v1/collections/notes")
        line, headers = b'{"key": "a", "text": "a red ball"}', {"Content-Type": "application/x-ndjson"}
        job = work.client.post("/v1/collections/notes/items", content=line, headers=headers, params={"when": "later"}).json()["job"]
        assert work.client.patch("/v1/collections/notes", json={"name": "jottings"}).status_code == 200
        assert work.job(job)["collection"] == "jottings"
        assert work.client.get("/v1/jobs", params={"collection": "notes"}).json()["jobs"] == []
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(root,)) as work:
        assert (work.ended(job)["state"], work.job(job)["error"]) == ("done", None)
        assert set(work.items("jottings")) == {"a"}


def test_pictures_outside_of_the_roots_are_not_read(work: AtWork, root: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "private", num_pictures=2)
    write_pictures(root / "pictures", num_pictures=3)
    (root / "pictures" / "linked.jpg").symlink_to(tmp_path / "private" / "0000.jpg")
    (root / "pictures" / "folder").symlink_to(tmp_path / "private")
    manifest = root / "manifest.csv"
    manifest.write_text(f"path\npictures/0001.jpg\n../private/0001.jpg\n{tmp_path}/private/0000.jpg\n")

    folder = work.ended(work.queue(kind="index", collection="folder", source=str(root / "pictures")))
    listed = work.ended(work.queue(kind="index", collection="listed", source=str(manifest)))

    assert set(work.items("folder")) == {"0000.jpg", "0001.jpg", "0002.jpg"}
    assert set(work.items("listed")) == {"pictures/0001.jpg"}, listed
    assert (folder["result"]["new"], listed["result"]["new"]) == (3, 1)
    causes = [entry["cause"] for entry in work.client.get("/v1/ledger?collection=listed").json()["entries"]]
    assert len(causes) == 2
    assert all("outside" in cause for cause in causes)


def test_the_store_itself_is_no_source(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "uploads").mkdir(parents=True)
    with pytest.raises(InvalidSource, match="outside"):
        require_within(str(store / "uploads"), (tmp_path,), store=store)
    require_within(str(tmp_path / "pictures"), (tmp_path,), store=store)


def test_jobs_that_a_key_may_not_see(work: AtWork) -> None:
    work.service.runner.stop()
    jobs = work.service.sightline.store.jobs
    jobs.enqueue(NewJob("compact", {}, "others"))
    headers = bearer(new_key(work.service.sightline, Scope.WRITE, collections=["photos"]))
    assert work.client.get("/v1/jobs", headers=headers).json()["jobs"] == []
    assert work.client.post("/v1/jobs", json={"kind": "compact", "collection": "photos"}, headers=headers).status_code == 403
    other = jobs.page()[0].job_id
    for path in (f"/v1/jobs/{other}", f"/v1/jobs/{other}/events"):
        assert work.client.get(path, headers=headers).status_code == 403
    assert work.client.post(f"/v1/jobs/{other}/cancel", headers=headers).status_code == 403
