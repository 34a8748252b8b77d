"""The OpenAPI document shows every body by an example, and names every problem's shape."""

from typing import Any

import pytest
from starlette.testclient import TestClient


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
        assert all("application/problem+json" in found["content"] for found in refusals if "content" in found), name


def test_no_page_loads_scripts_from_elsewhere(client: TestClient) -> None:
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
