"""Pages of other origins: which of them a browser lets call the service, and what the others are told."""

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.problems import problem


class CrossOrigin(CORSMiddleware):
    """Starlette's, which answers a browser's question in plain text where it refuses: here that is a problem like all others."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """What a browser is told that asks whether a page may call."""
        response = super().preflight_response(request_headers)
        return response if response.status_code == HTTPStatus.OK else _Refusal(response)


class _Refusal(Response):
    def __init__(self, of_starlette: Response) -> None:
        super().__init__(status_code=HTTPStatus.FORBIDDEN)
        what = bytes(of_starlette.body).decode().removeprefix("Disallowed CORS ")
        self._detail = f"a page of another origin may not call so ({what}); SIGHTLINE_SERVICE_CORS_ORIGINS names the origins that may"
        self._vary = of_starlette.headers.get("Vary", "Origin")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = problem(Request(scope), HTTPStatus.FORBIDDEN, kind="NotPermitted", detail=self._detail, headers={"Vary": self._vary})
        await response(scope, receive, send)
