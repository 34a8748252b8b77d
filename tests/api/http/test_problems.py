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


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/jobs?lmit=5", "query.lmit: there is no such parameter here; did you mean limit?"),
        ("/v1/settings?verbose=1", "query.verbose: there is no such parameter here; it takes none"),
        ("/v1/keys?x=", "query.x: there is no such parameter here; it takes none"),
        ("/v1/collections/default/search?q=red&topk=3", "query.topk: there is no such parameter here; did you mean top_k?"),
        (
            "/v1/collections/default/items?%20=1",
            "query. : there is no such parameter here; it takes after, modality, limit",
        ),
    ],
)
def test_a_parameter_that_an_address_does_not_take_is_refused(client: TestClient, path: str, said: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["type"], response.json()["detail"]) == (422, "InvalidRequest", said)


@pytest.mark.parametrize("given", ["limit=5&limit=9", "limit=5&modality=image&limit=5"])
def test_a_parameter_given_twice_is_refused_for_one_of_them_would_be_lost(client: TestClient, given: str) -> None:
    response = client.get(f"/v1/collections/default/items?{given}")
    assert (response.status_code, response.json()["detail"]) == (422, "query.limit: it is given more than once; expected one value")


def test_so_it_is_where_the_body_is_read_past_the_framework(client: TestClient) -> None:
    response = client.post("/v1/collections/default/search?top_k=3", json={"text": "red"})
    assert (response.status_code, response.json()["detail"]) == (422, "query.top_k: there is no such parameter here; it takes none")


def test_every_route_that_asks_for_a_key_refuses_parameters_that_it_does_not_take(client: TestClient) -> None:
    answered = {}
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        if path in ("/livez", "/readyz"):  # what watches a service may send what it likes, such as the time, past a cache
            continue
        for method in methods:
            url = path.replace("{collection}", "default").replace("{item_id}", "1").replace("{job_id}", "0" * 32).replace("{key_id}", "1")
            response = client.request(method, url, params={"never_a_parameter": "1"})
            is_problem = response.headers["content-type"] == "application/problem+json"
            answered[f"{method} {path}"] = (response.status_code, response.json()["detail"] if is_problem else "")
    wrong = {name: found for name, found in answered.items() if found[0] != 422 or not found[1].startswith("query.never_a_parameter: ")}
    assert wrong == {}
    assert len(answered) > 40


def test_a_probe_may_send_what_it_likes(client: TestClient) -> None:
    assert client.get("/livez?t=1764338400").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/embeddings", {"model": "m", "input": 5}, "body.input: Input should be a valid string or a valid list"),
        ("/v1/embeddings", {"model": "m", "input": ["a", 5]}, "body.input.1: Input should be a valid string"),
        ("/v1/rerank", {"query": "a", "documents": ["b", {"text": 5}]}, "body.documents.1.text: Input should be a valid string"),
        ("/v1/rerank", {"query": "a", "documents": [{"txt": "b"}]}, "body.documents.0.txt: Extra inputs are not permitted"),
        ("/v1/rerank", {"query": "a", "documents": [{}]}, "body.documents.0: Input should be a valid string or a document has either"),
        ("/v1/rerank", {"query": "a"}, "body.documents: Field required"),
        ("/v1/jobs", {"kind": "index", "collection": "photos"}, "body.source: Field required"),
        ("/v1/jobs", {"kind": "index", "collection": "photos", "source": 5}, "body.source: Input should be a valid string"),
        ("/v1/collections/default/search", {"text": "red", "top_k": True}, "body.top_k: Input should be a valid integer"),
        ("/v1/collections/default/search", {"text": "red", "top_k": "5"}, "body.top_k: Input should be a valid integer"),
        ("/v1/collections/default/search", {"text": "red", "min_match": "0.5"}, "body.min_match: Input should be a valid number"),
        ("/v1/match", {"image": "", "texts": ["a"], "explain": "yes"}, "body.explain: Input should be a valid boolean"),
    ],
)
def test_what_is_wrong_with_a_body_is_said_where_it_was_sent(client: TestClient, path: str, body: object, said: str) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(said)
