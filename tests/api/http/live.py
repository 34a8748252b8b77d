"""The service as it runs, in a thread of the test: uvicorn as `sightline serve` sets it up, on a free port of loopback."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import uvicorn
from fastapi import FastAPI

from api.http.service import Service
from api.http.serving import configured, listening
from api.http.slow_clients import ImpatientProtocol
from sightline.types import Embeddings
from tests.histogram_encoder import HistogramEncoder

DEADLINE_S = 30.0
SEARCH = "/v1/collections/default/search"


class GatedEncoder(HistogramEncoder):
    """Embeds texts when it is let to, and remembers which."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[str] = []

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        self.asked.extend(texts)
        assert self.gate.wait(DEADLINE_S)
        return super().embed_texts(texts)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Live:
    """A service that serves."""

    service: Service
    server: uvicorn.Server
    thread: threading.Thread
    port: int

    def search(self, text: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Search the default collection for words, without a second look."""
        return self.post(SEARCH, {"text": text, "top_k": 3, "rerank_depth": 0}, headers)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask on a connection of its own."""
        return self._ask("POST", path, json.dumps(body), {"Content-Type": "application/json", **(headers or {})})

    def get(self, path: str) -> Reply:
        """Likewise."""
        return self._ask("GET", path, None, {})

    def _ask(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), json.loads(response.read()))
        finally:
            connection.close()

    def request(self, text: str) -> bytes:
        """The same search as bytes for a socket."""
        body = json.dumps({"text": text, "top_k": 3, "rerank_depth": 0}).encode()
        head = f"POST {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


@contextmanager
def running(
    service: Service, *, app: FastAPI | None = None, protocol: type[ImpatientProtocol] | None = None, unread_ms: int | None = None
) -> Iterator[Live]:
    """The service at work, or an app of it; it is stopped as SIGTERM would stop it."""
    config = configured(service)
    if protocol is not None:
        config.http = protocol
    if app is not None:
        config.app = app
    with listening(service.settings) as listener:
        if unread_ms is not None:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive())
            yield Live(service, server, thread, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "the service did not stop"


def wait_until(condition: Callable[[], bool], *, within_s: float = DEADLINE_S) -> None:
    """Until it holds, or fail."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        threading.Event().wait(0.005)
