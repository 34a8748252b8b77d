"""What clients that are slow, idle or gone may cost: a connection each, for a while.

uvicorn closes a connection that stays idle after an answer. It waits forever for the head of a request, for the rest of a body, and for a
client that does not read what it asked for. The first is ended here by a timer a connection, the second by middleware, the third by the
kernel, which knows what has arrived.
"""

import asyncio
import socket
import uuid
from http import HTTPStatus
from typing import Any, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.http.joined_writes import JoinedWrites
from api.http.problems import problem, send_too_slow
from api.http.request_id import HEADER as REQUEST_ID_HEADER
from api.http.request_id import request_id_of
from api.http.security_headers import SECURITY_HEADERS

HEAD_S = 10.0
"""For the head of a request, from the first byte, or from the connection where none comes."""

BODY_PAUSE_S = 20.0
"""Between two pieces of a body: a telephone in a tunnel; not somebody who sends a byte a minute."""

UNREAD_MS = 30_000
"""That what was sent may wait in the kernel for the client to take it."""


LINGER_S, LINGER_BYTES = 5.0, 32_000_000
"""A request that is refused before its body has come is read on for so long at most, and what comes is thrown away: a connection that is
closed with something unread is reset, and most clients, which read only once they have sent everything, would never see the answer."""

MAX_HEAD_BYTES = 65_536
"""Of a request's head; the parser itself has no limit."""


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits to the time that the head of a request takes, and to its length."""

    _head_timer: asyncio.TimerHandle | None = None
    _num_head_bytes = 0
    _is_in_head = False
    _num_bytes_to_drop: int | None = None  # of a body that nobody reads any more; None while somebody does
    head_s = HEAD_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self.transport = cast("asyncio.Transport", JoinedWrites(transport, self.loop))
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Waits on where this was not yet a whole head."""
        if self._num_bytes_to_drop is not None:
            self._num_bytes_to_drop -= len(data)
            if self._num_bytes_to_drop < 0:
                self.transport.close()
            return
        super().data_received(data)
        self._num_head_bytes = self._num_head_bytes + len(data) if self._is_in_head else 0
        if self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"the head of the request has more than {MAX_HEAD_BYTES} bytes")
        self._watch_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """It is whole."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Ends the connection of a request that was answered before its body was there, as one that is too large."""
        cycle = self._cycle
        if cycle is None or not cycle.more_body or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self._num_bytes_to_drop = LINGER_BYTES
        self.transport.write_eof()  # the answer is whole, says this; the client closes, or the timer does
        self.flow.resume_reading()
        self._stop_watching()
        self._head_timer = self.loop.call_later(LINGER_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """In the shape of all other problems: what is no HTTP reaches no middleware."""
        scope: Scope = {"type": "http", "headers": [], "sightline.request_id": uuid.uuid4().hex[:16]}
        response = problem(Request(scope), HTTPStatus.BAD_REQUEST, kind="InvalidRequest", detail=f"this is no request of HTTP/1.1: {msg}")
        headers = {**dict(response.headers), REQUEST_ID_HEADER: request_id_of(scope), **SECURITY_HEADERS, "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n".encode("latin-1") + bytes(response.body))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._stop_watching()
        super().connection_lost(exc)

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """uvicorn's annotation leaves out that there is none at first."""
        return self.cycle

    @property
    def _is_answering(self) -> bool:
        return self._cycle is not None and not self._cycle.response_complete

    def _watch_head(self) -> None:
        if self._is_answering:
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_s, self._end)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end(self) -> None:
        if not self._is_answering:
            self.transport.abort()


class SlowBodies:
    """Middleware that answers 408 where the next piece of a request's body takes too long."""

    def __init__(self, app: ASGIApp, *, pause_s: float = BODY_PAUSE_S) -> None:
        self._app = app
        self._pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_more, has_begun = True, False

        async def receive_in_time() -> Message:
            nonlocal has_more
            if not has_more:  # what comes now is that the client goes away, which may take as long as it likes
                return await receive()
            try:
                async with asyncio.timeout(self._pause_s):  # unlike wait_for, it makes no task
                    message = await receive()
            except TimeoutError as error:
                raise _TooSlow from error
            has_more = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def noted_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive_in_time, noted_send)
        except _TooSlow:
            if not has_begun:
                await send_too_slow(f"no more of the request's body came for {self._pause_s:g} s", scope, receive, send)


class _TooSlow(BaseException):
    """Above what handlers of errors catch, so that it comes through to the middleware."""


def drop_who_does_not_read(listener: socket.socket) -> None:
    """Have the kernel end connections whose client takes nothing, where it can; those that are accepted inherit it."""
    option: Any = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, UNREAD_MS)
