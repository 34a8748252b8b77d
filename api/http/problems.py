"""What the service answers when something is wrong: one body shape (RFC 9457, problem+json), one status a class of error.

The sentence is the one that the command line prints, in the words of HTTP where it names a command. What nobody foresaw is a 500 with a
request id and no details; the log has them.
"""

import copy
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from api.http.addresses import Addresses
from api.http.content_types import is_json, media_type_of
from api.http.request_id import HEADER as REQUEST_ID_HEADER
from api.http.request_id import request_id_of
from api.http.security_headers import SECURITY_HEADERS
from api.http.validation import sentence_of_validation
from api.http.wording import sentence_of
from sightline import errors

logger = logging.getLogger(__name__)

STATUS_BY_ERROR: dict[type[errors.SightlineError], HTTPStatus] = {
    errors.SightlineError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidInput: HTTPStatus.BAD_REQUEST,
    errors.InvalidSetting: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidQuery: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InvalidSource: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InvalidTraining: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RequestTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.UnfetchableUrl: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.UnreadableImage: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.ImageTooLarge: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.StoreNotFound: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CollectionNotFound: HTTPStatus.NOT_FOUND,
    errors.ItemNotFound: HTTPStatus.NOT_FOUND,
    errors.PatchesNotFound: HTTPStatus.NOT_FOUND,
    errors.KeyNotFound: HTTPStatus.NOT_FOUND,
    errors.JobNotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.CollectionExists: HTTPStatus.CONFLICT,
    errors.EncoderMismatch: HTTPStatus.CONFLICT,
    errors.StoreBusy: HTTPStatus.CONFLICT,
    errors.JobConflict: HTTPStatus.CONFLICT,
    errors.AccessDenied: HTTPStatus.FORBIDDEN,
    errors.NotAuthenticated: HTTPStatus.UNAUTHORIZED,
    errors.NotPermitted: HTTPStatus.FORBIDDEN,
    errors.Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    errors.DeadlineExceeded: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.EncoderUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.InvalidCheckpoint: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CorruptSegment: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SchemaTooNew: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.OutOfSpace: HTTPStatus.INSUFFICIENT_STORAGE,
}

MEDIA_TYPE = "application/problem+json"

_METHODS_WITH_BODY = frozenset({"post", "put", "patch", "delete"})


class Problem(BaseModel):
    """What is wrong, in the shape of RFC 9457."""

    type: str = Field(description="the class of the error, as docs/service.md lists them", examples=["CollectionNotFound"])
    title: str = Field(description="what the status means", examples=["Not Found"])
    status: int = Field(description="as in the status line", examples=[404])
    detail: str = Field(description="a sentence for a person", examples=["there is no collection 'photo'; did you mean 'photos'?"])
    request_id: str = Field(description="as in the header X-Request-ID", examples=["6f1c1c2b7c8e4f0a"])


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares of the statuses that it may answer besides its own."""
    return {
        int(status): {"model": Problem, "description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {}}}
        for status in sorted(statuses)
    }


def status_of(error: errors.SightlineError) -> HTTPStatus:
    """The status of the error's class, or of its nearest base in the table."""
    return STATUS_BY_ERROR[_class_of(error)]


def kind_of(error: errors.SightlineError) -> str:
    """The `type` of its problem: the name of that class, which clients may rely on."""
    return _class_of(error).__name__


def _class_of(error: errors.SightlineError) -> type[errors.SightlineError]:
    return next(base for base in type(error).__mro__ if base in STATUS_BY_ERROR)


def problem(request: Request, status: int, *, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response for what is wrong."""
    body = Problem(type=kind, title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id_of(request.scope))
    return JSONResponse(body.model_dump(), status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def problem_of(error: errors.SightlineError, request: Request) -> Problem:
    """An error of the tree as a part of an answer, where it is the error of a part alone."""
    status = status_of(error)
    request_id = request_id_of(request.scope)
    return Problem(type=kind_of(error), title=status.phrase, status=status, detail=sentence_of(error), request_id=request_id)


def response_to(request: Request, error: errors.SightlineError) -> JSONResponse:
    """The response for an error of the tree."""
    status = status_of(error)
    headers = {}
    if isinstance(error, errors.Overloaded):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, errors.NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.warning("request %s: %s: %s", request_id_of(request.scope), type(error).__name__, error)
    return problem(request, status, kind=kind_of(error), detail=sentence_of(error), headers=headers)


async def send_problem(error: errors.SightlineError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error of the tree: middleware stands outside of the handlers."""
    await response_to(Request(scope), error)(scope, receive, send)


async def send_too_slow(detail: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request whose body does not come: 408, and the end of the connection."""
    headers = {"Connection": "close"}
    response = problem(Request(scope), HTTPStatus.REQUEST_TIMEOUT, kind="RequestTimeout", detail=detail, headers=headers)
    await response(scope, receive, send)


def name_answers_before_routes(app: FastAPI) -> None:
    """Have the OpenAPI document name, of every operation that takes a body, what may be answered before its route is asked."""
    of_routes = app.openapi

    def of_all() -> dict[str, Any]:
        document = of_routes()
        operations = [each for path in document["paths"].values() for method, each in path.items() if method in _METHODS_WITH_BODY]
        for responses in (operation["responses"] for operation in operations):
            for status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
                _name(responses, status)
        for operation in operations:
            if "requestBody" in operation:
                _name(operation["responses"], HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        for path in document["paths"].values():
            for operation in path.values():
                _say_what_problems_are(operation["responses"])
        return document

    app.openapi = of_all  # type: ignore[method-assign]


def _say_what_problems_are(responses: dict[str, Any]) -> None:
    """FastAPI writes a response's schema down as that of application/json, whatever else it is said to be."""
    for content in (response["content"] for response in responses.values() if MEDIA_TYPE in response.get("content", {})):
        if "application/json" in content:
            content[MEDIA_TYPE] = content.pop("application/json")


def _name(responses: dict[str, Any], status: HTTPStatus) -> None:
    like = responses["429"]  # a problem, as these are
    responses.setdefault(str(int(status)), {**copy.deepcopy(like), "description": status.phrase})


def _mistyped(request: Request, error: RequestValidationError) -> errors.UnsupportedMediaType | None:
    """What to say of a body that was not understood because it is declared as another type than its operation takes, or as none."""
    field = getattr(request.scope.get("route"), "body_field", None)
    if field is None:
        return None
    expected, declared = str(field.field_info.media_type), media_type_of(request.headers.get("Content-Type"))
    if declared == expected or (is_json(expected) and is_json(declared)) or not (declared or error.body):
        return None
    said = f"is declared as {declared[:80]!r}" if declared else "has no content type"
    return errors.UnsupportedMediaType(f"the request's body {said}, and this operation takes {expected}; send it with that Content-Type")


def _nothing_there(request: Request, addresses: Addresses) -> JSONResponse:
    path = request.scope["path"]
    nearest = addresses.nearest(path)
    hint = "GET /openapi.json lists every address" if nearest is None else f"did you mean {nearest!r}?"
    return problem(request, HTTPStatus.NOT_FOUND, kind="NotFound", detail=f"there is nothing at {path[:200]!r}; {hint}")


def _not_answered(request: Request, addresses: Addresses) -> JSONResponse:
    """One route of an address knows its own methods alone; the answer is to name those of all."""
    path = request.scope["path"]
    allowed = ", ".join(addresses.methods_of(path))
    detail = f"{path[:200]!r} does not answer {request.method[:20]}; it answers {allowed}"
    return problem(request, HTTPStatus.METHOD_NOT_ALLOWED, kind="MethodNotAllowed", detail=detail, headers={"Allow": allowed})


def answer_problems(app: FastAPI) -> None:
    """Have the app, which has all of its routes, answer errors so."""
    addresses = Addresses(app.routes)

    @app.exception_handler(errors.SightlineError)
    def of_the_tree(request: Request, error: errors.SightlineError) -> JSONResponse:
        return response_to(request, error)

    @app.exception_handler(RequestValidationError)
    def of_the_request(request: Request, error: RequestValidationError) -> JSONResponse:
        mistyped = _mistyped(request, error)
        if mistyped is not None:
            return response_to(request, mistyped)
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, kind="InvalidRequest", detail=sentence_of_validation(error))

    @app.exception_handler(HTTPException)
    def of_the_framework(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.NOT_FOUND:
            return _nothing_there(request, addresses)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return _not_answered(request, addresses)
        kind = "RequestTooLarge" if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else "InvalidRequest"
        if error.status_code == HTTPStatus.BAD_REQUEST:  # a body that is no JSON, or no form: of the kind that validation refuses
            detail = f"{str(error.detail).rstrip('.')}: expected JSON in UTF-8, or a form where the operation takes one"
            return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, kind=kind, detail=detail, headers=error.headers)
        return problem(request, error.status_code, kind=kind, detail=str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    def of_nobody(request: Request, error: Exception) -> JSONResponse:
        logger.error("request %s failed", request_id_of(request.scope), exc_info=error)
        detail = "this is a bug; the log of the service has more under the request's id"
        headers = {REQUEST_ID_HEADER: request_id_of(request.scope), **SECURITY_HEADERS}  # middleware stands inside of this handler
        return problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, kind="Unexpected", detail=detail, headers=headers)
