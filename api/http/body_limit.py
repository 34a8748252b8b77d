"""Middleware that ends requests whose body is too large, by what they announce and by what arrives, and JSON that is too deep.

JSON is held back until it is whole: its parsers recurse, and what they build is stored, searched and sent by code that recurses too.
"""

import asyncio
import re
from dataclasses import dataclass, field

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.content_types import is_json, media_type_of
from api.http.problems import send_problem, send_too_slow
from sightline.errors import InvalidRequest, Overloaded, RequestTooLarge, SightlineError

MAX_JSON_DEPTH = 64
"""Nobody's metadata is deeper; Python's own parser gives up near 1000, other code before that."""

MAX_HELD_BYTES = 256_000_000
"""Of JSON that is held for all requests together: a thousand clients that send eight megabytes each and then wait would take all memory."""

JSON_S = 120.0
"""For JSON to be whole, eight megabytes over a telephone's bad connection: without an end, who sends slowest would hold all of that."""

_BULK = re.compile(r"/v1/collections/[^/]+/items")
_BULK_TYPES = ("multipart/form-data", "application/x-ndjson", "application/jsonl")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bytes of a request's body at most."""

    max_body_bytes: int
    max_json_bytes: int
    max_upload_bytes: int  # of many items in one request


class BodyLimit:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, limits: BodyLimits, max_held_bytes: int = MAX_HELD_BYTES, json_s: float = JSON_S) -> None:
        self._app = app
        self._limits = limits
        self._max_held_bytes = max_held_bytes
        self._json_s = json_s
        self._num_held_bytes = 0  # of all requests that are in `_with_json`

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        content_type = media_type_of(headers.get("Content-Type"))
        limit = self._limit(scope, content_type)
        announced = headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > limit:
            await send_problem(too_large(limit), scope, receive, send)
        elif is_json(content_type):
            await self._with_json(scope, receive, send, limit=limit)
        else:
            await self._app(scope, _Counted(receive, limit), send)

    def _limit(self, scope: Scope, content_type: str) -> int:
        if is_json(content_type):
            return self._limits.max_json_bytes
        if content_type in _BULK_TYPES and _BULK.fullmatch(scope["path"]):
            return self._limits.max_upload_bytes
        return self._limits.max_body_bytes

    async def _with_json(self, scope: Scope, receive: Receive, send: Send, *, limit: int) -> None:
        """Hands the body on once it is known to be neither too large nor too deep."""
        held = _Held()
        try:
            is_more = await self._hold_next(held, receive, limit=limit)  # as good as always the whole of it, which needs no timer
            if is_more:
                async with asyncio.timeout(self._json_s):
                    while is_more:
                        is_more = await self._hold_next(held, receive, limit=limit)
            if not held.is_broken_off and is_too_deep(b"".join(held.parts)):
                raise InvalidRequest(f"the JSON is nested deeper than {MAX_JSON_DEPTH} levels; send it flatter")
        except TimeoutError:
            await send_too_slow(f"the request's JSON was not whole after {self._json_s:g} s", scope, receive, send)
        except SightlineError as error:
            await send_problem(error, scope, receive, send)
        else:
            if not held.is_broken_off:
                await self._app(scope, _Replayed(receive, b"".join(held.parts)), send)
        finally:
            self._num_held_bytes -= held.num_bytes

    async def _hold_next(self, held: "_Held", receive: Receive, *, limit: int) -> bool:
        """Receive a piece of a body; false where it was the last. Raises `RequestTooLarge`, `Overloaded`."""
        message = await receive()
        if message["type"] != "http.request":
            held.is_broken_off = True
            return False
        part = message.get("body", b"")
        held.parts.append(part)
        held.num_bytes += len(part)
        self._num_held_bytes += len(part)
        if held.num_bytes > limit:
            raise too_large(limit)
        if self._num_held_bytes > self._max_held_bytes:
            raise Overloaded("the bodies of all requests together are more than is held at once; try again in a moment")
        return bool(message.get("more_body", False))


@dataclass(slots=True)
class _Held:
    """What has come of a body."""

    parts: list[bytes] = field(default_factory=list)
    num_bytes: int = 0
    is_broken_off: bool = False  # the client went away


class _Counted:
    """A `receive` that ends a body which grows beyond the limit.

    Frameworks that read a body pass an `HTTPException` on, and take any other error for a body that cannot be parsed.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._num_bytes = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            if self._num_bytes > self._limit:
                raise HTTPException(413, str(too_large(self._limit)))
        return message


class _Replayed:
    """A `receive` that gives a body which was read already, and then what comes after it."""

    def __init__(self, receive: Receive, body: bytes) -> None:
        self._receive = receive
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        return await self._receive() if body is None else {"type": "http.request", "body": body, "more_body": False}


def too_large(limit: int) -> RequestTooLarge:
    """The error for a body of more bytes than `limit`."""
    return RequestTooLarge(f"the request's body has more than {limit:,} bytes, which is as much as is taken; send less at a time")


def is_too_deep(body: bytes) -> bool:
    """Whether JSON is nested deeper than `MAX_JSON_DEPTH`; what is no JSON may be called either."""
    if body.count(b"[") + body.count(b"{") <= MAX_JSON_DEPTH:  # as good as always, and quick
        return False
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", body)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_JSON_DEPTH:
            return True
    return False
