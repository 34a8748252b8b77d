"""A site on loopback that gives pictures, and does whatever else a site may do."""

import contextlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(1000)
_DRIP_EVERY_S = 0.02


@dataclass
class Site:
    """What it was asked for, and what it gives at some paths."""

    port: int = 0
    picture_by_path: Mapping[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and host
    closing: threading.Event = field(default_factory=threading.Event)

    def address(self, path: str) -> str:
        """Of a path, under the number of this machine."""
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def serving_pictures(picture_by_path: Mapping[str, bytes] | None = None, *, certificate: Path | None = None) -> Iterator[Site]:
    """The site as long as the block lasts; over TLS with a certificate, whose file has its key too."""
    site = Site(picture_by_path=picture_by_path or {})

    class Handler(_Handler):
        of = site

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.port = server.server_address[1]
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield site
        finally:
            site.closing.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """What each path answers."""

    protocol_version = "HTTP/1.1"
    of: Site

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # whoever asks may go away in the middle
            super().handle()

    def do_GET(self) -> None:
        self.of.asked.append((self.path, self.headers["Host"]))
        name, _, rest = self.path[1:].partition("/")
        match name:
            case "redirect":
                self._answer(302, b"", {"Location": rest})
            case "loop":
                self._answer(302, b"", {"Location": "/loop"})
            case "page":
                self._answer(200, b"<html>", {"Content-Type": "text/html"})
            case "no-picture":
                self._answer(200, b"<html>", {"Content-Type": "image/png"})
            case "large":
                self._answer(200, bytes(100_001), {"Content-Type": "image/png"})
            case "short":
                self._answer(200, PICTURE, {"Content-Type": "image/png", "Content-Length": "5000"})
                self.close_connection = True
            case "never":
                self.of.closing.wait(30)
                self.close_connection = True
            case "drip":
                self._drip(rest)
            case "gone":
                self._answer(404, b"", {})
            case "zipped":
                self._answer(200, PICTURE, {"Content-Type": "image/png", "Content-Encoding": "gzip"})
            case _:
                self._answer(200, self.of.picture_by_path.get(self.path, PICTURE), {"Content-Type": "image/png"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, what: str) -> None:
        """A byte now and then, for as long as somebody listens: of the head, of a body, or of a body of no known length."""
        self.close_connection = True
        status = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"
        end_by_what = {
            "head": b"X-Long: ",
            "continue": b"",
            "body": b"Content-Length: 90000\r\n\r\n",
            "to-its-end": b"Connection: close\r\n\r\n",
            "chunks": b"Transfer-Encoding: chunked\r\n\r\n",
        }
        drop = {"chunks": b"1\r\nx\r\n", "continue": b"HTTP/1.1 100 Continue\r\n\r\n"}.get(what, b"x")
        self.wfile.write(b"" if what == "continue" else status + end_by_what[what])
        while not self.of.closing.wait(_DRIP_EVERY_S):
            self.wfile.write(drop)

    def log_message(self, *_: object) -> None:
        """Nothing."""
