"""An id for every request: what the caller gave, where that is harmless, or one of our own; in the answer, its problems and the log."""

import os
import re
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline import logs

HEADER = "X-Request-ID"
_RAW_HEADER = HEADER.lower().encode()
_HARMLESS = re.compile(rb"[A-Za-z0-9_.-]{1,64}")


def request_id_of(scope: Any) -> str:
    """The id that `RequestIds` gave."""
    return str(scope.get("sightline.request_id", "-"))


class RequestIds:
    """Middleware that gives the ids."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(_RAW_HEADER)
        request_id = given.decode() if given is not None and _HARMLESS.fullmatch(given) else os.urandom(8).hex()
        scope["sightline.request_id"] = request_id
        logs.request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (_RAW_HEADER, request_id.encode())]
            await send(message)

        await self._app(scope, receive, send_with_id)
