"""Items that are sent: each has a status, files are named by their content, and what is broken takes nothing else with it."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from api import Sightline
from api.http.app import create_app
from api.http.routes.uploads import MAX_LINES
from api.http.service import Service
from api.http.settings import load_service_settings
from sightline.encoders.composed import ComposedEncoder
from tests.api.http.jobs_at_work import AtWork, at_work, until

ITEMS = "/v1/collections/default/items"
NDJSON = {"Content-Type": "application/x-ndjson"}


def picture(colour: str, *, size: tuple[int, int] = (40, 30), as_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, as_format)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of few bytes that says that it has 10^10 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def send(client: TestClient, *files: tuple[str, bytes], details: object = None) -> Any:
    """The answer to a form."""
    fields = {} if details is None else {"details": json.dumps(details)}
    return client.post(ITEMS, files=[("files", file) for file in files], data=fields)


def lines(client: TestClient, *items: object, when: str = "now") -> Any:
    """The answer to lines of JSON."""
    content = "\n".join(item if isinstance(item, str) else json.dumps(item) for item in items)
    return client.post(ITEMS, content=content, headers=NDJSON, params={"when": when})


def statuses(response: Any) -> dict[str, str]:
    assert response.status_code == 200, response.text
    return {item["key"]: item["status"] for item in response.json()["items"]}


def originals(sightline: Sightline) -> list[Path]:
    return sorted(path for path in (sightline.store.folder / "uploads").rglob("*") if path.is_file())


def test_pictures_are_added_replaced_and_left_alone(client: TestClient, sightline: Sightline) -> None:
    first = send(client, ("a.png", picture("red")), ("b.png", picture("green")), ("red.png", picture("red")))
    assert statuses(first) == {"a.png": "added", "b.png": "added", "red.png": "replaced"}
    item_id = first.json()["items"][0]["item_id"]

    again = send(client, ("a.png", picture("blue")), ("b.png", picture("green")))
    assert statuses(again) == {"a.png": "replaced", "b.png": "unchanged"}
    assert again.json()["items"][0]["item_id"] == item_id
    assert (again.json()["num_added"], again.json()["num_replaced"], again.json()["num_unchanged"]) == (0, 1, 1)

    assert client.get(f"{ITEMS}/{item_id}/original").content == picture("blue")
    hits = client.post("/v1/collections/default/search", json={"text": "blue", "top_k": 2}).json()["hits"]
    assert {hit["key"] for hit in hits} == {"a.png", "blue.png"}


def test_originals_are_kept_once_and_go_with_the_last_item(client: TestClient, sightline: Sightline) -> None:
    sent = send(client, ("a.png", picture("red")), ("b.png", picture("red"))).json()["items"]
    (original,) = originals(sightline)
    assert original.read_bytes() == picture("red")

    client.delete(f"{ITEMS}/{sent[0]['item_id']}")
    assert originals(sightline) == [original]
    assert client.get(f"{ITEMS}/{sent[1]['item_id']}/original").content == picture("red")
    send(client, ("b.png", picture("green")))
    (other,) = originals(sightline)
    assert other != original
    client.delete(f"{ITEMS}/{sent[1]['item_id']}")
    assert originals(sightline) == []


def test_details(client: TestClient) -> None:
    details = [{"key": "2024/a.png", "caption": "a red wall", "metadata": {"place": "Rome"}}, {}]
    sent = send(client, ("a.png", picture("red")), ("b.png", picture("green")), details=details).json()["items"]
    item = client.get(f"{ITEMS}/{sent[0]['item_id']}").json()
    assert (item["key"], item["text"], item["metadata"], item["width"]) == ("2024/a.png", "a red wall", {"place": "Rome"}, 40)
    assert sent[1]["key"] == "b.png"


def test_what_is_broken_takes_nothing_else_with_it(client: TestClient, sightline: Sightline) -> None:
    whole = picture("red", size=(300, 200), as_format="JPEG")
    files = [
        ("good.jpg", whole),
        ("cut.jpg", whole[:400]),
        ("bomb.png", bomb()),
        ("text.png", b"hello"),
        ("empty.png", b""),
        ("script.svg", b"<svg onload='alert(1)'/>"),
        ("../../etc/passwd", whole),
        ("/etc/passwd", whole),
        ("one.png", picture("red", size=(1, 1))),
    ]
    response = send(client, *files)
    found = statuses(response)
    assert {key for key, status in found.items() if status == "added"} == {"good.jpg"}
    for item in response.json()["items"]:
        assert (item["status"] == "failed") == bool(item["error"])
        assert item["error"] is None or len(item["error"]["detail"]) > 10
    assert len(originals(sightline)) == 1


def ledger(client: TestClient, **wanted: str | bool) -> list[Any]:
    entries: list[Any] = client.get("/v1/ledger", params=wanted).json()["entries"]
    return entries


def test_what_failed_is_in_the_ledger_until_it_is_sent_whole(client: TestClient) -> None:
    sent = send(client, ("a.png", picture("red")), ("cut.png", picture("red")[:60]), ("../x.png", picture("red"))).json()
    entries = ledger(client, run_id=sent["run_id"])
    assert [(entry["key"], entry["error_class"], entry["collection"]) for entry in entries] == [
        ("cut.png", "UnreadableImage", "default"),
        ("../x.png", "InvalidRequest", "default"),
    ]
    assert [entry["cause"] for entry in entries] == [
        item["error"]["detail"].removeprefix("cut.png: ") for item in sent["items"] if item["error"]
    ]
    (run,) = client.get("/v1/runs", params={"limit": 1}).json()["runs"]
    assert (run["run_id"], run["state"], run["finished_at"] is not None) == (sent["run_id"], "finished", True)
    assert {name: count for name, count in run["counts"].items() if count} == {"new": 1, "skipped": 2}
    assert "cut.png" in client.get("/v1/ledger", params={"format": "csv"}).text

    assert send(client, ("cut.png", picture("green"))).json()["run_id"] is None
    assert [entry["key"] for entry in ledger(client, unresolved=True)] == ["../x.png"]
    assert len(client.get("/v1/runs").json()["runs"]) == 2, "the photos' and that of the upload in which something failed"


def test_a_key_that_failed_and_is_as_before_is_settled(client: TestClient) -> None:
    send(client, ("a.png", picture("red")))
    send(client, ("a.png", b"broken"))
    assert [entry["key"] for entry in ledger(client, unresolved=True)] == ["a.png"]
    assert statuses(send(client, ("a.png", picture("red")))) == {"a.png": "unchanged"}
    assert ledger(client, unresolved=True) == []


def test_a_key_that_came_twice_is_in_the_ledger_and_settled(client: TestClient) -> None:
    sent = send(client, ("a.png", picture("red")), ("a.png", picture("green"))).json()
    (entry,) = ledger(client, run_id=sent["run_id"])
    assert entry["resolved_at"] is not None
    assert ledger(client, unresolved=True) == []


def test_names_that_no_database_keeps_are_in_the_ledger_all_the_same(client: TestClient) -> None:
    disposition = "Content-Disposition: form-data; name=\"files\"; filename*=utf-8''a%00%ED%A0%80.png"
    body = f"--x\r\n{disposition}\r\n\r\nabc\r\n--x--\r\n"
    sent = client.post(ITEMS, content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert [item["status"] for item in sent.json()["items"]] == ["failed"]
    (entry,) = ledger(client, unresolved=True)
    assert entry["key"].startswith("a\ufffd")


def test_more_lines_than_are_answered_for_are_refused(client: TestClient, sightline: Sightline) -> None:
    refused = client.post(ITEMS, content=b"\n" * (MAX_LINES + 1), headers=NDJSON)
    assert (refused.status_code, refused.json()["type"]) == (413, "RequestTooLarge")
    assert originals(sightline) == []


def test_the_same_key_twice(client: TestClient) -> None:
    response = send(client, ("a.png", picture("red")), ("a.png", picture("green")))
    assert [item["status"] for item in response.json()["items"]] == ["failed", "added"]


def test_lines_of_json(client: TestClient) -> None:
    data = "data:image/png;base64," + base64.b64encode(picture("green")).decode()
    response = lines(
        client,
        {"key": "note 1", "text": "a red ball", "metadata": {"n": 1}},
        "",
        {"key": "green", "image": data, "caption": "a green wall"},
        "{",
        "[1]",
        {"key": "x"},
        {"key": "x", "text": "a", "image": data},
        {"key": "../x", "text": "a"},
        {"key": "x", "text": " "},
        '{"key": "x", "text": "a", "metadata": {"n": NaN}}',
        '{"key": "x", "text": "a", "metadata": {"n": Infinity}}',
        {"key": "x", "text": "a", "metadata": [1]},
        {"key": "x", "text": "a", "colour": 1},
        {"key": "x", "image": "data:image/png;base64,%%%"},
        {"key": "x", "image": "file:///etc/passwd"},
        {"key": "x", "image": "https://example.org/cat.png"},
        {"key": 7, "text": "a"},
        '{"key": "deep", "text": "a", "metadata": ' + '{"a":' * 5000 + "1" + "}" * 5001,
    )
    items = response.json()["items"]
    assert [item["status"] for item in items[:2]] == ["added", "added"]
    assert {item["status"] for item in items[2:]} == {"failed"}
    assert items[2]["key"] == "line 4"
    (unfetched,) = (item["error"] for item in items if item["error"] and item["error"]["type"] == "UnfetchableUrl")
    assert "SIGHTLINE_SERVICE_FETCH_URLS" in unfetched["detail"]
    assert statuses(lines(client, {"key": "note 1", "text": "a red ball", "metadata": {"n": 1}})) == {"note 1": "unchanged"}
    assert statuses(lines(client, {"key": "note 1", "text": "a red ball"})) == {"note 1": "replaced"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"key": "mine", "text": "a", "metadata": {"n": 1e999}}', "larger than any number"),
        ('{"key": "mine", "text": "a\\u0000b"}', "NUL"),
        ('{"key": "mine", "text": "\\ud800"}', "surrogate"),
        ('{"key": "mine", "text": "a", "metadata": {"n": ["\\ud800"]}}', "surrogate"),
        ('{"key": "mine", "text": "a", "metadata": {"n": ' + "9" * 5000 + "}}", "5,000 digits"),
        ('{"key": "mine", "image": "file:///etc/passwd"}', "neither a data URI"),
        (b'{"key": "\xff", "text": "a"}', "not UTF-8 text: byte 9"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_of_its_key_and_nothing_is_changed_silently(
    client: TestClient, line: str | bytes, said: str
) -> None:
    response = client.post(ITEMS, content=line, headers={"Content-Type": "application/x-ndjson"})
    (item,) = response.json()["items"]
    assert item["status"] == "failed"
    assert said in item["error"]["detail"]
    assert item["key"] == ("line 1" if isinstance(line, bytes) or "9999" in line else "mine")


def test_many_lines(client: TestClient) -> None:
    response = lines(client, *({"key": f"note {number}", "text": f"a ball {number}"} for number in range(300)))
    assert response.json()["num_added"] == 300
    assert len(client.get(ITEMS, params={"limit": 1000, "modality": "text"}).json()["items"]) == 300


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/form-data", b"--x\r\n", 422),
        ("multipart/form-data; boundary=x", b"", 422),
        ("multipart/form-data; boundary=x", b"nonsense", 422),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc', 422),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="b"\r\n\r\nabc\r\n--x--\r\n', 422),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="details"\r\n\r\n{}\r\n--x--\r\n', 422),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A" * 20_000 + b": b\r\n\r\n", 422),
        ("image/png", picture("red"), 415),
        ("application/json", b"{}", 415),
        ("", b"", 415),
    ],
)
def test_what_is_no_upload(client: TestClient, sightline: Sightline, content_type: str, body: bytes, status: int) -> None:
    response = client.post(ITEMS, content=body, headers={"Content-Type": content_type})
    assert (response.status_code, bool(response.json()["detail"])) == (status, True), response.text
    assert not [path for path in (sightline.store.folder / "uploads").rglob("*") if path.is_file()]


def test_two_lists_of_details(client: TestClient) -> None:
    field = b'--x\r\nContent-Disposition: form-data; name="details"\r\n\r\n[]\r\n'
    response = client.post(ITEMS, content=field + field + b"--x--\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (response.status_code, "more than one field named details" in response.json()["detail"]) == (422, True)


def test_details_that_do_not_fit(client: TestClient) -> None:
    assert send(client, ("a.png", picture("red")), details=[{}, {}]).status_code == 422
    assert statuses(send(client, ("a.png", picture("red")), details=[{"colour": 1}])) == {"a.png": "failed"}


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ('[{"metadata": {"n": NaN}}]', "NaN is no number of JSON"),
        ('[{"metadata": {"n": -Infinity}}]', "-Infinity is no number of JSON"),
        ('[{"metadata": {"n": 1e999}}]', "larger than any number"),
        ('[{"metadata": {"n": ' + "9" * 5000 + "}}]", "5,000 digits"),
        ("[" * 100_000, "is not JSON"),
        (b"[\xff]", "is not JSON"),
    ],
)
def test_details_that_are_no_json(client: TestClient, details: str | bytes, said: str) -> None:
    refused = client.post(ITEMS, files=[("files", ("a.png", picture("red"))), ("details", (None, details))])
    assert (refused.status_code, refused.json()["type"]) == (422, "InvalidRequest")
    assert said in refused.json()["detail"]


def test_a_collection_that_is_not_there(client: TestClient) -> None:
    assert client.post("/v1/collections/none/items", content="{}", headers=NDJSON).status_code == 404


@pytest.fixture
def limited(sightline: Sightline) -> Iterator[TestClient]:
    settings = load_service_settings(max_body_bytes=2000, max_upload_bytes=10_000, max_pixels=2000)
    with TestClient(create_app(Service(sightline, settings)), raise_server_exceptions=False, client=("127.0.0.1", 50_000)) as client:
        yield client


def test_limits(limited: TestClient) -> None:
    assert statuses(send(limited, ("a.png", bytes(3000)), ("b.png", picture("red")), ("c.png", picture("red", size=(60, 60))))) == {
        "a.png": "failed",
        "b.png": "added",
        "c.png": "failed",
    }
    response = send(limited, *((f"{number}.png", bytes(1900)) for number in range(10)))
    assert (response.status_code, response.json()["type"]) == (413, "RequestTooLarge")


def test_what_is_sent_for_later_is_a_job(tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)
        response = lines(work.client, *({"key": f"note {number}", "text": f"{number} red balls"} for number in range(200)), when="later")
        assert (response.status_code, response.json()["reason"]) == (202, "asked for")
        done = work.ended(response.json()["job"])
        assert (done["state"], done["result"]["num_added"]) == ("done", 200)
        assert len(work.items()) == 200
        assert originals(work.service.sightline) == []


def test_what_is_sent_while_another_process_writes_is_a_job(tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)
        with work.service.sightline.store.writer():
            response = send(work.client, ("a.png", picture("red")), ("b.png", b"broken"))
            assert (response.status_code, response.json()["reason"]) == (202, "another process writes")
        done = work.ended(response.json()["job"])
        assert (done["result"]["num_added"], done["result"]["num_failed"]) == (1, 1)
        assert set(work.items()) == {"a.png"}
        (entry,) = ledger(work.client, run_id=done["result"]["run_id"])
        assert (entry["key"], entry["error_class"]) == ("b.png", "UnreadableImage")


@pytest.mark.parametrize(("limits", "fails"), [({}, {"one.png"}), ({"decode_timeout_s": 0.001}, {"one.png", "good.png"})])
def test_a_picture_has_the_same_limits_and_the_same_embedding_now_and_later(
    tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder, limits: dict[str, float], fails: set[str]
) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(), limits=limits) as work:
        make_collection(work, tiny_encoder)
        noise = np.random.default_rng(0).integers(0, 256, (1700, 1900, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        found = []
        for when in ("now", "later"):
            files = [
                ("files", (name, content)) for name, content in (("good.png", buffer.getvalue()), ("one.png", picture("red", size=(1, 1))))
            ]
            sent = work.client.post(ITEMS, files=files, params={"when": when}).json()
            if when == "later":
                done = work.ended(sent["job"])
                assert (done["state"], done["num_attempts"]) == ("done", 1)
                assert {failed["key"] for failed in done["result"]["failed"]} == fails
            else:
                assert {item["key"] for item in sent["items"] if item["error"]} == fails
            sightline = work.service.sightline
            ids = [known.item_id for known in sightline.store.known_items(sightline.collection("default").collection_id)]
            found.append(sightline.store.snapshot(sightline.collection("default").collection_id).embeddings(np.array(ids, dtype=np.int64)))
            if ids:
                work.client.post(f"{ITEMS}/delete", json={"item_ids": ids})
        np.testing.assert_array_equal(found[0], found[1])
        assert len(found[0]) == 2 - len(fails)


def test_many_uploads_are_merged_by_a_job(tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)
        for number in range(24):
            lines(work.client, {"key": f"note {number}", "text": f"{number} red balls"})
        job = until(lambda: work.client.get("/v1/jobs").json()["jobs"])[0]
        assert work.ended(job)["state"] == "done"
        assert work.service.sightline.statistics(collection="default").num_segments == 1
        assert len(work.items()) == 24


def make_collection(work: AtWork, encoder: ComposedEncoder) -> None:
    """An empty one, of the service's encoder."""
    work.service.sightline.store.create_collection(
        "default", encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, embedding_dim=encoder.embedding_dim
    )


def test_a_dropped_collection_takes_its_originals_with_it(sightline: Sightline, client: TestClient) -> None:
    send(client, ("a.png", picture("red")))
    sightline.delete_collection("default")
    assert originals(sightline) == []


def test_the_same_sent_twice_under_one_idempotency_key_is_one_job(
    tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder
) -> None:
    notes = [{"key": f"note {number}", "text": f"{number} red balls"} for number in range(20)]
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)

        def sent(content: str, **query: str) -> Any:
            return work.client.post(ITEMS, content=content, headers=NDJSON | {"Idempotency-Key": "import-1"}, params=query)

        content = "\n".join(map(json.dumps, notes))
        first = sent(content, when="later")
        again = sent(content, when="later")
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.json()["job"]["job_id"] == first.json()["job"]["job_id"]
        assert again.json()["reason"] == "the same was sent before under this idempotency key"
        assert work.ended(first.json()["job"])["state"] == "done"
        late = sent(content)  # the client lost the answer and asks for it to be done at once
        assert (late.status_code, late.json()["job"]["state"]) == (202, "done")
        other = sent(content + '\n{"key": "one more", "text": "a ball"}')
        assert (other.status_code, other.json()["type"]) == (409, "JobConflict")
        assert len(work.items()) == 20
        assert originals(work.service.sightline) == []  # what was sent again is not kept


def test_a_form_sent_twice_under_one_idempotency_key_is_one_job(
    tmp_path: Path, tiny_encoder_path: Path, tiny_encoder: ComposedEncoder
) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        make_collection(work, tiny_encoder)
        answers = [
            work.client.post(
                ITEMS, files=[("files", ("a.png", picture(colour)))], headers={"Idempotency-Key": "a"}, params={"when": "later"}
            )
            for colour in ("red", "red", "blue")
        ]
        assert [answer.status_code for answer in answers] == [202, 202, 409]
        assert answers[0].json()["job"]["job_id"] == answers[1].json()["job"]["job_id"]
        assert work.ended(answers[0].json()["job"])["result"]["num_added"] == 1
