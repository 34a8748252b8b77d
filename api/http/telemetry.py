"""Middleware that counts and times every request, and writes a line about each that can be found by its id."""

import asyncio
import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.metrics import Metrics
from search.engine import Timings
from sightline.logs import FIELDS

logger = logging.getLogger("api.http.access")

_NO_ROUTE = "none"
"""Of paths that lead nowhere: whoever tries them must not make a time series of each."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_IS_GONE = 499


@dataclass(slots=True)
class _Request:
    """What is known of a request in progress."""

    searches: list[Timings] = field(default_factory=list)
    status: int = _CLIENT_IS_GONE  # until an answer begins


_current: ContextVar[_Request | None] = ContextVar("_current", default=None)


def note_search(timings: Timings) -> None:
    """The request at hand searched, and that is what its stages took; outside of a request nothing is noted."""
    request = _current.get()
    if request is not None:
        request.searches.append(timings)


class Telemetry:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request()
        token = _current.set(request)
        started = time.perf_counter()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            await send(message)

        self._metrics.begin_request()
        try:
            await self._app(scope, receive, send_and_note)
        except BaseException:
            request.status = 500 if request.status == _CLIENT_IS_GONE else request.status
            raise
        finally:
            _current.reset(token)
            # The loop writes an answer to its socket once what it runs now is over: what is noted meanwhile, the client waits for.
            asyncio.get_running_loop().call_soon(self._end, scope, request, time.perf_counter() - started)

    def _end(self, scope: Scope, request: _Request, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._metrics.end_request(method=method, route=_route_of(scope), status=request.status, seconds=seconds)
        for timings in request.searches:
            self._metrics.observe_search(timings)
        if logger.isEnabledFor(logging.INFO):
            _write_line(scope, request, seconds=seconds)


def _route_of(scope: Scope) -> str:
    """The template of the path, such as /v1/collections/{collection}."""
    return str(getattr(scope.get("route"), "path", _NO_ROUTE))


def _write_line(scope: Scope, request: _Request, *, seconds: float) -> None:
    """Without the query, which says what somebody looks for."""
    actor = scope.get("sightline.actor")
    fields: dict[str, Any] = {
        "method": scope["method"],
        "path": scope["path"],
        "route": _route_of(scope),
        "status": request.status,
        "duration_ms": round(seconds * 1000, 1),
        "actor": None if actor is None else str(actor),
    }
    if request.searches:
        fields["search_ms"] = round(sum(timings.total_ms for timings in request.searches), 1)
    logger.info("%s %r answered %d in %.1f ms", scope["method"], scope["path"], request.status, seconds * 1000, extra={FIELDS: fields})
