"""What is declared as something that is not taken is 415 with a sentence; what is declared as a picture, or as nothing, is looked at."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.api.http.jobs_at_work import at_work

SEARCH = "/v1/collections/default/search"
UPLOAD = f"{SEARCH}/upload"
ITEMS = "/v1/collections/default/items"
NDJSON = "application/x-ndjson"

PICTURES = ["image/png", "image/jpeg", "IMAGE/PNG; name=a.png", "image/x-unknown", "application/octet-stream", "binary/octet-stream"]
NO_PICTURES = ["text/plain", "application/pdf", "text/html; charset=utf-8", "video/mp4", "application/json", "nonsense", "x" * 500]


def picture(colour: str, as_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, as_format)
    return buffer.getvalue()


def refused(response: Any) -> str:
    """The sentence of a 415."""
    assert response.status_code == 415, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["type"], problem["title"]) == ("UnsupportedMediaType", "Unsupported Media Type")
    return str(problem["detail"])


def form(*parts: tuple[str, str | None]) -> dict[str, Any]:
    """A form of red pictures, each with the content type it is declared to have, if any."""
    head = '--x\r\nContent-Disposition: form-data; name="image"; filename="{}"\r\n{}\r\n'
    declared = [head.format(name, "" if kind is None else f"Content-Type: {kind}\r\n").encode() for name, kind in parts]
    content = b"".join(each + picture("red") + b"\r\n" for each in declared) + b"--x--\r\n"
    return {"content": content, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}


@pytest.mark.parametrize("declared", [*PICTURES, None])
def test_what_is_declared_as_a_picture_or_nothing_is_looked_at(client: TestClient, declared: str | None) -> None:
    response = client.post(UPLOAD, **form(("a", declared)))
    assert response.status_code == 200, response.text
    assert response.json()["hits"][0]["key"] == "red.png"

    (item,) = client.post(ITEMS, **form(("a", declared))).json()["items"]
    assert item["status"] == "added"


@pytest.mark.parametrize("declared", NO_PICTURES)
def test_what_is_declared_as_no_picture_is_refused_whatever_is_inside(client: TestClient, declared: str) -> None:
    said = refused(client.post(UPLOAD, **form(("a.png", declared))))
    assert repr(declared.partition(";")[0][:80]) in said
    assert "image/" in said

    items = client.post(ITEMS, **form(("a.png", declared), ("b.png", "image/png"))).json()["items"]
    assert [item["status"] for item in items] == ["failed", "added"]
    assert items[0]["error"]["type"] == "UnsupportedMediaType"
    assert repr(declared.partition(";")[0][:80]) in items[0]["error"]["detail"]


def test_what_is_inside_decides_the_format(client: TestClient) -> None:
    jpeg = picture("red", "JPEG")
    response = client.post(UPLOAD, files={"image": ("a.png", jpeg, "image/png")})
    assert response.json()["hits"][0]["key"] == "red.png"

    (item,) = client.post(ITEMS, files=[("files", ("a.png", jpeg, "image/png"))]).json()["items"]
    original = client.get(f"{ITEMS}/{item['item_id']}/original")
    assert (original.headers["content-type"], original.content) == ("image/jpeg", jpeg)


def test_what_is_no_picture_is_none_by_any_type(client: TestClient) -> None:
    response = client.post(UPLOAD, files={"image": ("a.png", b"%PDF-1.7 hello", "image/png")})
    assert (response.status_code, response.json()["type"]) == (422, "UnreadableImage")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("data:image/png;base64", "added"),
        ("data:application/octet-stream;base64", "added"),
        ("data:;base64", "added"),
        ("data:text/plain;base64", "failed"),
        ("data:application/pdf;base64", "failed"),
    ],
)
def test_a_data_uri_is_declared_too(client: TestClient, head: str, status: str) -> None:
    uri = f"{head},{base64.b64encode(picture('red')).decode()}"
    line = json.dumps({"key": "a", "image": uri})
    (item,) = client.post(ITEMS, content=line, headers={"Content-Type": NDJSON}).json()["items"]
    assert item["status"] == status
    assert item["error"] is None or item["error"]["type"] == "UnsupportedMediaType"

    searched = client.post(SEARCH, json={"image": uri, "top_k": 1})  # the body itself is of the right type
    assert searched.status_code == (200 if status == "added" else 422), searched.text


def test_what_a_job_indexes_is_looked_at_likewise(tmp_path: Path, tiny_encoder_path: Path) -> None:
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=()) as work:
        assert work.client.put("/v1/collections/default").status_code == 201
        sent = form(("a.png", "application/pdf"), ("b.png", None))
        done = work.ended(work.client.post(f"{ITEMS}?when=later", **sent).json()["job"])
        assert (done["result"]["num_added"], done["result"]["num_failed"]) == (1, 1)
        assert set(work.items()) == {"b.png"}


@pytest.mark.parametrize(
    "declared", ["text/plain", "application/xml", "multipart/form-data", "application/x-www-form-urlencoded", "json", ""]
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", SEARCH), ("POST", "/v1/search/batch"), ("PATCH", "/v1/collections/default"), ("POST", "/v1/embeddings")]
)
def test_json_that_is_declared_as_something_else_is_refused(client: TestClient, method: str, path: str, declared: str) -> None:
    said = refused(client.request(method, path, content=b'{"text": "red", "name": "x"}', headers={"Content-Type": declared}))
    assert "takes application/json" in said
    assert (repr(declared) if declared else "no content type") in said


@pytest.mark.parametrize(
    "declared", ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"]
)
def test_json_is_taken_by_all_its_names(client: TestClient, declared: str) -> None:
    response = client.post(SEARCH, content=b'{"text": "red"}', headers={"Content-Type": declared})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("declared", ["application/json", "image/png", "application/x-www-form-urlencoded", "text/plain"])
def test_a_form_that_is_declared_as_something_else_is_refused(client: TestClient, declared: str) -> None:
    said = refused(client.post(UPLOAD, content=b"text=red", headers={"Content-Type": declared}))
    assert "takes multipart/form-data" in said


@pytest.mark.parametrize("declared", ["application/json", "image/png", "text/plain", ""])
def test_items_are_sent_as_a_form_or_lines(client: TestClient, declared: str) -> None:
    said = refused(client.post(ITEMS, content=b"{}", headers={"Content-Type": declared}))
    assert "multipart/form-data" in said
    assert NDJSON in said


def test_a_body_that_is_not_there_has_no_type(client: TestClient) -> None:
    response = client.post(SEARCH)
    assert (response.status_code, response.json()["type"]) == (422, "InvalidRequest")
