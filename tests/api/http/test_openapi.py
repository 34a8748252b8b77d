"""The OpenAPI document shows every body by an example, and names every problem's shape."""

import json
from http import HTTPStatus
from typing import Any

import jsonschema_rs
import pytest
from starlette.testclient import TestClient

from api.http.examples import example_of
from api.http.problems import STATUS_BY_ERROR


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{method} {path}", found) for path, methods in document["paths"].items() for method, found in methods.items()]


def test_every_body_in_json_has_an_example(document: dict[str, Any]) -> None:
    lacking = []
    for name, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        schema = content["schema"]
        body = document["components"]["schemas"][schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
        by_field = body.get("properties") and all({"examples", "default"} & set(field) for field in body["properties"].values())
        if not ({"example", "examples"} & {*body, *content} or by_field):
            lacking.append(name)
    assert lacking == []


def test_every_parameter_says_what_it_is_and_what_it_may_look_like(document: dict[str, Any]) -> None:
    lacking = [
        (name, parameter["name"])
        for name, operation in operations(document)
        for parameter in operation.get("parameters", [])
        if not parameter.get("description") or not {"example", "examples"} & {*parameter, *parameter["schema"]}
    ]
    assert lacking == []


def test_every_example_of_a_parameter_is_one_that_it_takes(document: dict[str, Any]) -> None:
    wrong = []
    for name, operation in operations(document):
        for parameter in operation.get("parameters", []):
            schema = {**parameter["schema"], "components": document["components"]}
            given = [parameter["example"]] if "example" in parameter else parameter["schema"].get("examples", [])
            wrong += [(name, parameter["name"], each) for each in given if not jsonschema_rs.is_valid(schema, each)]
    assert wrong == []


def test_every_answer_has_an_example_that_is_one(document: dict[str, Any]) -> None:
    num_seen = 0
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            for content_type, content in response.get("content", {}).items():
                if content_type.startswith("image/"):
                    continue
                assert "example" in content, (name, status, content_type)
                if "json" in content_type and content.get("schema"):
                    schema = {**content["schema"], "components": document["components"]}
                    jsonschema_rs.validate(schema, content["example"])
                    num_seen += 1
    assert num_seen > 200


def test_a_problem_is_shown_as_that_of_its_status(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            shown = response.get("content", {}).get("application/problem+json", {}).get("example")
            if shown is not None:
                assert (str(shown["status"]), shown["title"]) == (status, HTTPStatus(int(status)).phrase), name
                kinds = {kind.__name__: int(of_kind) for kind, of_kind in STATUS_BY_ERROR.items()}
                assert kinds.get(shown["type"], shown["status"]) == shown["status"] or shown["status"] == 416, (name, shown)


def test_a_field_without_an_example_is_told() -> None:
    with pytest.raises(LookupError, match=r"Lacking\.name has no example"):
        example_of({"$ref": "#/components/schemas/Lacking"}, {"Lacking": {"properties": {"name": {"type": "string"}}}}, where="here")


def examples(document: dict[str, Any]) -> list[tuple[str, str, str, Any]]:
    """Method, path, content type and example of each body."""
    found = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
                name = content["schema"].get("$ref", "").rpartition("/")[2]
                of_body = document["components"]["schemas"].get(name, {}).get("examples", [])
                of_content = [each["value"] for each in content.get("examples", {}).values()]
                found += [
                    (method, path, content_type, each) for each in (*of_body, *of_content, content.get("example")) if each is not None
                ]
    return found


def test_every_example_of_a_body_is_understood(fused_client: TestClient) -> None:
    """What it names may not be there; what it says must not be refused as something that cannot be meant."""
    assert fused_client.put("/v1/aliases/photos", json={"collection": "default"}).status_code == 200
    found = examples(fused_client.get("/openapi.json").json())
    assert len(found) > 15
    statuses = []
    for method, path, content_type, example in found:
        filled = path.replace("{collection}", "default").replace("{alias}", "current")
        content = example if isinstance(example, str) else json.dumps(example)
        response = fused_client.request(method, filled, content=content, headers={"Content-Type": content_type})
        body = response.json()
        assert response.status_code < 400 or body["type"] not in ("InvalidRequest", "InvalidInput", "InvalidQuery"), (path, example, body)
        assert not any(item["error"] for item in body.get("items", [])) if path.endswith("/items") else True, body
        statuses.append(response.status_code)
    assert sum(status < 300 for status in statuses) >= len(statuses) / 2


def test_every_operation_of_the_api_says_what_it_does_and_how_it_refuses(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if "/v1/" not in name and "/v2/" not in name:
            continue
        assert operation.get("description"), name
        assert {"401", "403"} <= set(operation["responses"]), name
        if "requestBody" in operation:
            assert "415" in operation["responses"], name
        if not name.startswith(("get ", "head ")):  # what middleware answers, of bodies that are too slow or too large
            assert {"408", "413"} <= set(operation["responses"]), name
        refusals = [found for status, found in operation["responses"].items() if status.startswith("4")]
        for found in refusals:
            if "application/problem+json" in found.get("content", {}):
                assert found["content"].keys() == {"application/problem+json"}, name
                assert found["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}, name
        assert all("application/problem+json" in found["content"] for found in refusals if "content" in found), name


def test_no_page_loads_scripts_from_elsewhere(client: TestClient) -> None:
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
