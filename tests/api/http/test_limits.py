"""Requests that are too large, too deep, too many or from elsewhere get a sentence, and what browsers are told comes with every answer."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from api import Sightline
from api.http.app import create_app
from api.http.body_limit import MAX_JSON_DEPTH, is_too_deep
from api.http.rate_limit import RateLimit
from api.http.service import Service
from api.http.settings import load_service_settings
from sightline.errors import RateLimited
from sightline.types import Scope
from tests.api.http.keys import bearer, new_key

SEARCH = "/v1/collections/default/search"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def small(sightline: Sightline) -> Iterator[TestClient]:
    """Takes little."""
    settings = load_service_settings(max_body_bytes=4096, max_json_bytes=2048, max_upload_bytes=8192)
    with TestClient(create_app(Service(sightline, settings)), raise_server_exceptions=False) as client:
        yield client


def _in_parts(body: bytes) -> Iterator[bytes]:
    """Nothing announces how long it is."""
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize(
    ("path", "content_type", "limit"),
    [
        (SEARCH, "application/json", 2048),
        (SEARCH, "application/problem+json; charset=utf-8", 2048),
        (SEARCH, "text/plain", 4096),
        (f"{SEARCH}/upload", "multipart/form-data; boundary=x", 4096),
        ("/v1/collections/default/items", "multipart/form-data; boundary=x", 8192),
        ("/v1/collections/default/items", "application/x-ndjson", 8192),
    ],
)
def test_a_body_that_is_too_large_is_413(small: TestClient, path: str, content_type: str, limit: int, is_announced: bool) -> None:
    body = b" " * (limit + 1)
    response = small.post(path, content=body if is_announced else _in_parts(body), headers={"Content-Type": content_type})

    assert response.status_code == 413, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "RequestTooLarge"
    assert f"{limit:,} bytes" in problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]


def test_a_body_of_exactly_the_limit_is_read(small: TestClient) -> None:
    body = json.dumps({"text": "red"}).encode().ljust(2048)
    assert small.post(SEARCH, content=body, headers=JSON).status_code == 200
    assert small.post(SEARCH, content=_in_parts(body), headers=JSON).status_code == 200


@pytest.mark.parametrize("announced", ["-1", "1e3", "x", "9" * 400])
def test_a_length_that_is_none_fails_no_server(small: TestClient, announced: str) -> None:
    response = small.post(SEARCH, content=b'{"text": "red"}', headers=JSON | {"Content-Length": announced})
    assert response.status_code in (200, 413)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"text":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"text": "red", "like": ' + b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH + b"}",
    ],
    ids=["open", "objects", "closed", "inside", "just"],
)
def test_deep_json_is_a_sentence(client: TestClient, body: bytes) -> None:
    response = client.post(SEARCH, content=body, headers=JSON)
    assert response.status_code == 422
    assert "deeper" in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "red", "top_k": NaN}',
        b'{"text": "red", "min_match": Infinity}',
        b'{"text": "red", "min_match": -Infinity}',
        b'{"text": "red", "rerank_deadline_ms": 1e999}',
        b'{"text": "red", "top_k": ' + b"9" * 4000 + b"}",
        b'{"text": "red", "top_k": ' + b"9" * 10_000 + b"}",
        b'{"text": "\\ud800"}',
        b'{"text": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"nul",
        b"",
        b"[]",
    ],
)
def test_json_that_is_none_of_ours_is_a_sentence(client: TestClient, body: bytes) -> None:
    response = client.post(SEARCH, content=body, headers=JSON)
    assert 200 <= response.status_code < 500
    if response.status_code >= 400:
        assert response.json()["detail"]
        assert response.headers["content-type"] == "application/problem+json"


def test_ten_megabytes_of_json_are_refused_at_once(client: TestClient) -> None:
    body = b'{"text": "' + b"x" * 10_000_000 + b'"}'
    response = client.post(SEARCH, content=body, headers=JSON)
    assert response.status_code == 413


@given(
    st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=100)
)
def test_brackets_in_strings_are_no_depth(value: object) -> None:
    assert not is_too_deep(json.dumps({"text": "[{" * 100 + '\\"', "value": value}).encode())


def test_depth_is_counted_to_the_level() -> None:
    for depth, is_deep in ((MAX_JSON_DEPTH, False), (MAX_JSON_DEPTH + 1, True)):
        assert is_too_deep(b'["]", ' + b"[" * (depth - 1) + b"]" * depth) is is_deep


def test_a_stranger_with_a_large_body_is_refused_for_the_key(sightline: Sightline) -> None:
    new_key(sightline, Scope.SEARCH)
    with TestClient(create_app(Service(sightline, load_service_settings()))) as client:
        assert client.post(SEARCH, content=b" " * 9_000_000, headers=JSON).status_code == 401


def test_a_key_that_asks_too_often_waits_and_others_do_not(sightline: Sightline) -> None:
    ours, theirs = bearer(new_key(sightline, Scope.SEARCH)), bearer(new_key(sightline, Scope.SEARCH))
    with TestClient(create_app(Service(sightline, load_service_settings(rate_limit_per_minute=2)))) as client:
        first, second, third = (client.get("/v1/collections", headers=ours) for _ in range(3))
        assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
        assert 1 <= int(third.headers["retry-after"]) <= 30
        assert third.json()["type"] == "RateLimited"
        assert client.get("/v1/collections", headers=theirs).status_code == 200
        assert client.get("/livez").status_code == 200


def test_a_bucket_fills_steadily_and_holds_a_minute() -> None:
    now_s = 0.0
    limit = RateLimit(60, clock=lambda: now_s)
    for _ in range(60):
        limit.take("a")
    with pytest.raises(RateLimited) as refused:
        limit.take("a")
    assert refused.value.retry_after_s == pytest.approx(1)
    now_s = 2.5
    limit.take("a")
    limit.take("a")
    with pytest.raises(RateLimited) as refused:
        limit.take("a")
    assert refused.value.retry_after_s == pytest.approx(0.5)
    now_s = 10_000.0
    for _ in range(60):
        limit.take("a")
    with pytest.raises(RateLimited):
        limit.take("a")


@pytest.mark.parametrize("path", ["/v1/collections", "/v1/nothing", "/livez", "/openapi.json", "/"])
def test_every_answer_tells_browsers_what_to_run(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


def test_no_other_origin_may_read_answers_unless_it_is_named(sightline: Sightline) -> None:
    asked = {"Origin": "https://photos.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with TestClient(create_app(Service(sightline, load_service_settings()))) as client:
        refused = client.options(SEARCH, headers=asked)
        assert "access-control-allow-origin" not in refused.headers
        assert refused.headers["content-type"] == "application/problem+json"
    secret = new_key(sightline, Scope.SEARCH)
    settings = load_service_settings(cors_origins=("https://photos.example",))
    with TestClient(create_app(Service(sightline, settings))) as client:
        allowed = client.options(SEARCH, headers=asked)
        assert allowed.status_code == 200
        for wrong in ({"Origin": "https://evil.example"}, {"Access-Control-Request-Method": "TRACE"}):
            refused = client.options(SEARCH, headers=asked | wrong)
            assert (refused.status_code, refused.json()["type"]) == (403, "NotPermitted")
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["request_id"] == refused.headers["x-request-id"]
            assert refused.headers.get("access-control-allow-origin") != "https://evil.example"
        assert allowed.headers["access-control-allow-origin"] == "https://photos.example"
        assert "access-control-allow-credentials" not in allowed.headers
        read = client.get("/v1/collections", headers=bearer(secret) | {"Origin": "https://photos.example"})
        assert read.headers["access-control-allow-origin"] == "https://photos.example"
        other = client.get("/v1/collections", headers=bearer(secret) | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
