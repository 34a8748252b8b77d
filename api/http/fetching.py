"""Fetching a picture from an address that a stranger gave, without letting them reach what only this machine can.

The name is resolved once and each address checked; the connection goes to an address that was checked, with the name in `Host` and in TLS,
so that a name which changes its address between the two gains nothing. Each redirect is a new address, resolved and checked again.

Time is limited at the socket, before each read: a server that sends a byte now and then, even of the head, is given up at the deadline.
"""

import contextlib
import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from sightline.errors import RequestTooLarge, UnfetchableUrl

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_REDIRECTS = 5
_MAX_URL_CHARACTERS = 4096
_CHUNK_BYTES = 65_536
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORT_BY_SCHEME = {"http": 80, "https": 443}
_CONNECTION_BY_SCHEME = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}  # each leaves its own port out of `Host`
_USER_AGENT = "sightline"
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_ACCEPTED = ("image/", "application/octet-stream", "binary/octet-stream")
"""What servers call a picture; what it really is is found when it is decoded."""


Resolve = Callable[[str, int], Sequence[str]]
"""A host name and a port -> addresses; raises OSError."""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one fetch may take."""

    max_bytes: int
    timeout_s: float  # redirects included
    networks: tuple[IpNetwork, ...] = ()  # what may be asked beside the public internet


def is_public(address: IpAddress) -> bool:
    """Whether an address is anybody's on the internet: no private, shared, local, reserved or multicast one in any disguise."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inside is None and any(address in network for network in _NAT64):
            inside = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inside is not None:
            return is_public(inside)
        if int(address) >> 32 == 0 or address.is_site_local:  # `::1.2.3.4`, which some systems take for the IPv4 address
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback)


def resolve(host: str, port: int, /) -> list[str]:
    """All addresses of a name, as the system finds them."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Fetcher:
    """Fetches pictures. Thread-safe."""

    def __init__(self, limits: FetchLimits, *, resolve: Resolve = resolve) -> None:
        self._limits = limits
        self._resolve = resolve

    def fetch(self, url: str) -> bytes:
        """What is there. Raises `UnfetchableUrl` with the reason, `RequestTooLarge` for more than the limit."""
        deadline_s = time.monotonic() + self._limits.timeout_s
        address = url
        for _ in range(MAX_REDIRECTS + 1):
            found = self._fetch_once(address, deadline_s=deadline_s)
            if isinstance(found, bytes):
                return found
            address = urljoin(address, found.location)
        raise UnfetchableUrl(f"{_shown(url)} is redirected more than {MAX_REDIRECTS} times")

    def _fetch_once(self, url: str, *, deadline_s: float) -> "bytes | _Redirect":
        parts = _parsed(url)
        port = parts.port or _PORT_BY_SCHEME[parts.scheme]
        assert parts.hostname is not None
        try:
            with contextlib.closing(self._connected(parts.scheme, parts.hostname, port, deadline_s=deadline_s)) as connected:
                connection = _CONNECTION_BY_SCHEME[parts.scheme](parts.hostname, port)
                connection.sock = _Timely(connected, deadline_s=deadline_s)
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                headers = {"User-Agent": _USER_AGENT, "Accept": "image/*", "Accept-Encoding": "identity"}
                connection.request("GET", target, headers=headers)
                with connection.getresponse() as response:
                    return self._answer(url, response)
        except TimeoutError as error:
            raise UnfetchableUrl(f"{_shown(url)} did not answer within {self._limits.timeout_s:g} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UnfetchableUrl(f"{_shown(url)} cannot be fetched ({type(error).__name__})") from error

    def _connected(self, scheme: str, host: str, port: int, *, deadline_s: float) -> socket.socket:
        """A connection to one of the addresses of `host`, all of which are allowed."""
        addresses = self._addresses(host, port)
        connected = socket.create_connection((str(addresses[0]), port), timeout=_left(deadline_s))
        if scheme == "https":
            connected.settimeout(_left(deadline_s))
            return ssl.create_default_context().wrap_socket(connected, server_hostname=host)
        return connected

    def _addresses(self, host: str, port: int) -> list[IpAddress]:
        """Raises `UnfetchableUrl` where one of them is not allowed: a name with a public and a private address is no name to trust."""
        try:
            addresses = [ipaddress.ip_address(found.partition("%")[0]) for found in self._resolve(host, port)]
        except (OSError, UnicodeError) as error:
            raise UnfetchableUrl(f"the host {host[:200]!r} is not known") from error
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise UnfetchableUrl(f"the host {host[:200]!r} is not on the public internet; pictures are fetched from there alone")
        return addresses

    def _is_allowed(self, address: IpAddress) -> bool:
        return is_public(address) or any(address in network for network in self._limits.networks)

    def _answer(self, url: str, response: http.client.HTTPResponse) -> "bytes | _Redirect":
        location = response.headers.get("Location")
        if response.status in _REDIRECTS and location:
            return _Redirect(location)
        if response.status != HTTPStatus.OK:
            raise UnfetchableUrl(f"{_shown(url)} answers with status {response.status}")
        content_type = response.headers.get("Content-Type", "").lower()
        if not content_type.startswith(_ACCEPTED):
            raise UnfetchableUrl(f"{_shown(url)} is {content_type[:80] or 'of no type'}, and no picture")
        return self._content(url, response)

    def _content(self, url: str, response: http.client.HTTPResponse) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnfetchableUrl(f"{_shown(url)} is sent compressed, which was not asked for")
        max_bytes, content = self._limits.max_bytes, bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            content += chunk
            if len(content) > max_bytes:
                raise RequestTooLarge(f"{_shown(url)} has more than the {max_bytes:,} bytes that are taken")
        if response.length:
            raise UnfetchableUrl(f"{_shown(url)} was cut short")
        return bytes(content)


class _Timely:
    """What `http.client` needs of a socket, all of it until the deadline; raises `TimeoutError`. Whoever made the socket closes it."""

    def __init__(self, connected: socket.socket, *, deadline_s: float) -> None:
        self._connected = connected
        self._deadline_s = deadline_s

    def sendall(self, content: bytes) -> None:
        self._connected.settimeout(_left(self._deadline_s))
        self._connected.sendall(content)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimelyReader(self._connected, deadline_s=self._deadline_s))

    def close(self) -> None:
        """Nothing: an answer may be read after the connection is let go of."""


class _TimelyReader(io.RawIOBase):
    """Reads a socket until the deadline. The limit of a socket is one of each read, which one byte in time meets."""

    def __init__(self, connected: socket.socket, *, deadline_s: float) -> None:
        self._connected = connected
        self._deadline_s = deadline_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._connected.settimeout(_left(self._deadline_s))
        return self._connected.recv_into(buffer)


@dataclass(frozen=True, slots=True)
class _Redirect:
    """Where to look instead."""

    location: str


def _left(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _parsed(url: str) -> SplitResult:
    """Raises `UnfetchableUrl` for what is no address of the web, or one with a password in it."""
    if len(url) > _MAX_URL_CHARACTERS or not url.isascii() or any(letter <= " " or letter == "\x7f" for letter in url):
        raise UnfetchableUrl(f"{_shown(url)} is no address: expected at most {_MAX_URL_CHARACTERS:,} ASCII characters without spaces")
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in _PORT_BY_SCHEME and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise UnfetchableUrl(f"{_shown(url)} is no address ({error})") from error
    if not is_usable:
        raise UnfetchableUrl(f"{_shown(url)} is no address that is fetched: expected http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise UnfetchableUrl("an address with a user name or password in it is not fetched")
    return parts


def _shown(url: str) -> str:
    """For a sentence: without the query, which may hold a secret."""
    return repr(url.partition("?")[0][:200])
