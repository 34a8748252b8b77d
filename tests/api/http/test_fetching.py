"""Addresses that strangers give: what is public is fetched, and nothing else is asked for anything."""

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from api.http.fetching import Fetcher, FetchLimits, is_public
from sightline.errors import RequestTooLarge, UnfetchableUrl

LIMITS = FetchLimits(max_bytes=100_000, timeout_s=5.0)
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(1000)


class _Site(BaseHTTPRequestHandler):
    """What each path answers."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[tuple[str, str]]] = []
    until_closed: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        name, _, rest = self.path[1:].partition("/")
        match name:
            case "redirect":
                self._answer(302, b"", {"Location": rest})
            case "loop":
                self._answer(302, b"", {"Location": "/loop"})
            case "page":
                self._answer(200, b"<html>", {"Content-Type": "text/html"})
            case "large":
                self._answer(200, bytes(100_001), {"Content-Type": "image/png"})
            case "short":
                self._answer(200, PICTURE, {"Content-Type": "image/png", "Content-Length": "5000"})
                self.close_connection = True
            case "never":
                self.until_closed.wait(30)
                self.close_connection = True
            case "gone":
                self._answer(404, b"", {})
            case "zipped":
                self._answer(200, PICTURE, {"Content-Type": "image/png", "Content-Encoding": "gzip"})
            case _:
                self._answer(200, PICTURE, {"Content-Type": "image/png"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """Of a site on loopback."""
    _Site.asked.clear()
    _Site.until_closed.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        _Site.until_closed.set()
        server.shutdown()
        thread.join()


def hosts(**address_by_name: str) -> Callable[[str, int], list[str]]:
    """A resolver that knows these names, with a dash for each dot."""

    def find(host: str, port: int) -> list[str]:
        name = host.replace(".", "_")
        if name not in address_by_name:
            raise socket.gaierror("unknown")
        return address_by_name[name].split()

    return find


def fetcher(limits: FetchLimits = LIMITS) -> Fetcher:
    """Takes loopback's first address for the internet."""
    resolver = hosts(pictures_example="127.0.0.1", other_example="127.0.0.1", inside_example="127.0.0.2", both_example="127.0.0.1 10.0.0.1")
    return Fetcher(limits, resolve=resolver, is_allowed=lambda address: str(address) == "127.0.0.1")


def test_a_picture_is_fetched_by_its_name(port: int) -> None:
    assert fetcher().fetch(f"http://pictures.example:{port}/cat.png?size=1") == PICTURE
    assert _Site.asked == [("/cat.png?size=1", f"pictures.example:{port}")]


def test_redirects_are_followed(port: int) -> None:
    address = f"http://pictures.example:{port}/redirect/http://other.example:{port}/redirect//cat.png"
    assert fetcher().fetch(address) == PICTURE
    assert [path for path, _ in _Site.asked][-1] == "/cat.png"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/redirect/http://inside.example:{port}/", "not on the public internet"),
        ("/redirect/http://127.0.0.2:{port}/", "not known"),
        ("/redirect/file:///etc/passwd", "no address that is fetched"),
        ("/redirect/gopher://pictures.example/", "no address that is fetched"),
        ("/loop", "more than 5 times"),
        ("/page", "'http://pictures.example:{port}/page' is text/html, and no picture"),
        ("/short", "cut short|IncompleteRead"),
        ("/gone", "status 404"),
        ("/zipped", "sent compressed"),
    ],
)
def test_what_is_not_fetched(port: int, path: str, sentence: str) -> None:
    with pytest.raises(UnfetchableUrl, match=sentence.replace("{port}", str(port))):
        fetcher().fetch(f"http://pictures.example:{port}{path.replace('{port}', str(port))}")
    assert all(host != f"inside.example:{port}" for _, host in _Site.asked)


def test_a_large_one_is_not_read_to_its_end(port: int) -> None:
    with pytest.raises(RequestTooLarge, match="100,000"):
        fetcher().fetch(f"http://pictures.example:{port}/large")


def test_a_slow_one_is_given_up(port: int) -> None:
    with pytest.raises(UnfetchableUrl, match=r"within 0\.2 s"):
        fetcher(FetchLimits(max_bytes=1000, timeout_s=0.2)).fetch(f"http://pictures.example:{port}/never")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://pictures.example/cat.png",
        "http://",
        "http:///cat.png",
        "cat.png",
        "",
        "http://user:password@pictures.example/",
        "http://pictures.example/ HTTP/1.1\r\nHost: inside.example",
        "http://pictures.example:0/",
        "http://pictures.example:99999/",
        "http://[::1/",
        "http://inside.example/",
        "http://both.example/",
        "http://unknown.example/",
        "http://p\u0131ctures.example/",
        "http://pictures.example/" + "x" * 5000,
    ],
)
def test_what_is_not_even_asked_for(url: str) -> None:
    with pytest.raises(UnfetchableUrl):
        fetcher().fetch(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1"])
def test_loopback_is_refused_without_a_connection(port: int, host: str) -> None:
    with pytest.raises(UnfetchableUrl, match=r"public internet|not known"):
        Fetcher(LIMITS).fetch(f"http://{host}:{port}/")
    assert _Site.asked == []


def test_a_name_that_changes_its_address_gains_nothing(port: int) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    once = Fetcher(LIMITS, resolve=lambda host, port: next(answers), is_allowed=lambda address: str(address) == "127.0.0.1")
    assert once.fetch(f"http://rebound.example:{port}/cat.png") == PICTURE
    assert list(answers) == [["127.0.0.2"]], "it was resolved once"


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "fe80::1",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
