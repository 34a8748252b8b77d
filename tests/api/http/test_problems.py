"""What goes wrong is answered in one shape, with the sentence that the command line would print."""

from http import HTTPStatus

import pytest
from starlette.testclient import TestClient

from api.exit_codes import EXIT_CODE_BY_ERROR
from api.http.problems import STATUS_BY_ERROR


def test_every_class_of_the_tree_has_a_status() -> None:
    assert set(STATUS_BY_ERROR) == set(EXIT_CODE_BY_ERROR)


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/collections/defualt/search", {"text": "red"}, 404, "CollectionNotFound"),
        ("/v1/collections/default/search", {"text": " "}, 422, "InvalidQuery"),
        ("/v1/collections/default/search", {"like": ["no.png"]}, 404, "ItemNotFound"),
        ("/v1/collections/default/search", {"text": "red", "top_k": 0}, 422, "InvalidRequest"),
        ("/v1/collections/default/search", {"text": "red", "colour": 1}, 422, "InvalidRequest"),
        ("/v1/nothing", {}, 404, "NotFound"),
    ],
)
def test_a_problem_says_what_is_wrong(client: TestClient, path: str, body: object, status: int, kind: str) -> None:
    response = client.post(path, json=body)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["type"], problem["status"], problem["title"]) == (kind, status, HTTPStatus(status).phrase)
    assert problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("given", ["a-b_c.1", "x" * 64])
def test_a_harmless_request_id_is_kept(client: TestClient, given: str) -> None:
    assert client.get("/v1/collections", headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["x" * 65, "a b", "<script>"])
def test_any_other_is_replaced(client: TestClient, given: str) -> None:
    assert client.get("/v1/collections", headers={"X-Request-ID": given}).headers["x-request-id"] != given
