"""Examples of answers in the OpenAPI document, each put together from the examples of its fields: none is forgotten or falls behind.

A field says what it may look like (`Field(examples=[...])`), unless its type does: one of a few words, a default, another model.
"""

import functools
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from api.http.problems import MEDIA_TYPE

_JSON = "application/json"
_PREFIX = "#/components/schemas/"

_REFUSALS: dict[int, tuple[str, str]] = {
    400: ("InvalidInput", "' photos' is no name for a collection: expected 1 to 200 printable characters, no space around them"),
    401: ("NotAuthenticated", "this takes a key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"),
    403: ("NotPermitted", "the key 'laptop' is not for the collection 'photos'"),
    404: ("CollectionNotFound", "there is no collection 'photo'; did you mean 'photos'?"),
    408: ("RequestTimeout", "no more of the request's body came for 20 s"),
    409: ("StoreBusy", "the store /srv/sightline is being written by process 4121: wait until that has finished, or stop it"),
    413: ("RequestTooLarge", "the request's body has more than 1,000,000 bytes, which is as much as is taken; send less at a time"),
    415: (
        "UnsupportedMediaType",
        "the request's body has no content type, and this operation takes application/json; send it with that Content-Type",
    ),
    416: ("InvalidRequest", "the picture has 182,044 bytes, and the range begins behind them"),
    422: ("InvalidRequest", "body.top_k: Input should be less than or equal to 1000"),
    429: ("Overloaded", "2 searches run and 64 wait, which is all that may; try again in a second"),
    503: ("DeadlineExceeded", "the answer was not ready within 1000 ms; try again, or with a later deadline"),
    507: ("OutOfSpace", "no room left in /srv/sightline: free some space and run again; what was committed is intact"),
}
"""What may be wrong, by status: one of the reasons that there are."""


def show_examples(app: FastAPI) -> None:
    """Have the app's OpenAPI document show them; it is made once, since nothing changes it."""
    without = app.openapi

    @functools.cache
    def with_examples() -> dict[str, Any]:
        document = without()
        give_examples(document)
        return document

    app.openapi = with_examples  # type: ignore[method-assign]


def give_examples(document: dict[str, Any]) -> None:
    """Show an example of every answer in JSON, and of every problem by its status. Raises `LookupError` for a field without one."""
    schemas = document["components"]["schemas"]
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            if _JSON in content and content[_JSON].get("schema"):
                content[_JSON]["example"] = example_of(content[_JSON]["schema"], schemas, where=operation["operationId"])
            if MEDIA_TYPE in content:
                content[MEDIA_TYPE]["example"] = _problem(int(status))


def example_of(schema: dict[str, Any], schemas: dict[str, Any], *, where: str) -> Any:
    """What a schema describes may look like this; `where` names it in an error. Raises `LookupError`."""
    if schema.get("examples"):
        return schema["examples"][0]
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_PREFIX)
        return example_of(schemas[name], schemas, where=name)
    for variants in ("anyOf", "oneOf", "allOf"):
        if variants in schema:
            return example_of(schema[variants][0], schemas, where=where)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "properties" in schema:
        return {name: example_of(field, schemas, where=f"{where}.{name}") for name, field in schema["properties"].items()}
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas, where=where)]
    if "default" in schema:
        return schema["default"]
    raise LookupError(f"{where} has no example")


def _problem(status: int) -> dict[str, Any]:
    kind, detail = _REFUSALS[status]
    return {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail, "request_id": "6f1c1c2b7c8e4f0a"}
