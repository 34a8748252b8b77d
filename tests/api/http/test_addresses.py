"""An address that there is not, or that does not answer a method, is told what there is instead; nothing is redirected."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.api.http.live import SEARCH


def problem(response: Any, status: int, kind: str) -> str:
    """The sentence of a problem of that kind."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == kind
    assert body["request_id"] == response.headers["x-request-id"]
    return str(body["detail"])


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/collections/", "/v1/collections"),
        ("/v1/collections/default/", "/v1/collections/default"),
        ("/v1/collections/default/items/", "/v1/collections/default/items"),
        ("/v1//collections", "/v1/collections"),
        ("/collections", "/v1/collections"),
        ("/collections/default/search", "/v1/collections/default/search"),
        ("/v1/collection", "/v1/collections"),
        ("/v1/colections/my%20photos/serch", "/v1/collections/my photos/search"),
        ("/livez/", "/livez"),
        ("/openapi.jsn", "/openapi.json"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_address_that_is_none_names_the_one_that_was_meant(client: TestClient, method: str, path: str, meant: str) -> None:
    said = problem(client.request(method, path, follow_redirects=False), 404, "NotFound")
    assert said.endswith(f"did you mean {meant!r}?")


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/nothing/at/all", "/v1/collections/default/nothing", "/v3/search", "/" + "x" * 5000, "/%00"]
)
def test_an_address_that_nothing_is_like_is_told_where_all_are(client: TestClient, path: str) -> None:
    said = problem(client.get(path), 404, "NotFound")
    assert said.startswith("there is nothing at '/")
    assert said.endswith("GET /openapi.json lists every address")
    assert len(said) < 300


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/collections", "GET, POST"),
        ("POST", "/v1/collections/default", "DELETE, GET, PATCH, PUT"),
        ("PUT", SEARCH, "GET, POST"),
        ("OPTIONS", SEARCH, "GET, POST"),
        ("HEAD", "/v1/collections", "GET, POST"),
        ("NONSENSE", "/v1/keys", "GET, POST"),
        ("POST", "/", "GET, HEAD"),
        ("POST", "/livez", "GET"),
    ],
)
def test_a_method_that_is_none_names_those_that_are(client: TestClient, method: str, path: str, allowed: str) -> None:
    response = client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    if method != "HEAD":
        assert problem(response, 405, "MethodNotAllowed") == f"{path!r} does not answer {method}; it answers {allowed}"


def test_every_operation_of_the_document_is_an_address(client: TestClient) -> None:
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        response = client.request("NONSENSE", path.replace("{", "").replace("}", ""))
        assert {method.upper() for method in operations} <= set(response.headers["allow"].split(", ")), path


def test_a_collection_that_is_not_there_is_told_in_the_words_of_http(client: TestClient) -> None:
    expected = "there is no collection 'zzz'; GET /v1/collections lists those there are, POST /v1/collections makes one"
    assert problem(client.get("/v1/collections/zzz"), 404, "CollectionNotFound") == expected
    (each,) = client.post("/v1/search/batch", json={"searches": [{"collection": "zzz", "text": "red"}]}).json()["answers"]
    assert each["problem"]["detail"] == expected
    assert problem(client.get("/v1/collections/defualt"), 404, "CollectionNotFound").endswith("did you mean 'default'?")


def test_the_page_of_administrators_is_there_as_people_type_it(client: TestClient) -> None:
    assert client.get("/admin/", follow_redirects=False).content == client.get("/admin").content
