"""Addresses that strangers give: what is public is fetched, and nothing else is asked for anything."""

import ipaddress
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from api.http.fetching import Fetcher, FetchLimits, is_public
from sightline.errors import RequestTooLarge, UnfetchableUrl
from tests.api.http.picture_site import PICTURE, Site, serving_pictures

LIMITS = FetchLimits(max_bytes=100_000, timeout_s=5.0)
LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving_pictures() as site:
        yield site


@pytest.fixture
def port(site: Site) -> int:
    return site.port


def hosts(**address_by_name: str) -> Callable[[str, int], list[str]]:
    """A resolver that knows these names, with a dash for each dot."""

    def find(host: str, port: int) -> list[str]:
        name = host.replace(".", "_")
        if name not in address_by_name:
            raise socket.gaierror("unknown")
        return address_by_name[name].split()

    return find


def fetcher(limits: FetchLimits = LIMITS) -> Fetcher:
    """May ask loopback's first address too."""
    resolver = hosts(pictures_example="127.0.0.1", other_example="127.0.0.1", inside_example="127.0.0.2", both_example="127.0.0.1 10.0.0.1")
    return Fetcher(replace(limits, networks=LOOPBACK), resolve=resolver)


def test_a_picture_is_fetched_by_its_name(site: Site, port: int) -> None:
    assert fetcher().fetch(f"http://pictures.example:{port}/cat.png?size=1") == PICTURE
    assert site.asked == [("/cat.png?size=1", f"pictures.example:{port}")]


def test_redirects_are_followed(site: Site, port: int) -> None:
    address = f"http://pictures.example:{port}/redirect/http://other.example:{port}/redirect//cat.png"
    assert fetcher().fetch(address) == PICTURE
    assert [path for path, _ in site.asked][-1] == "/cat.png"


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
def test_what_is_not_fetched(site: Site, port: int, path: str, sentence: str) -> None:
    with pytest.raises(UnfetchableUrl, match=sentence.replace("{port}", str(port))):
        fetcher().fetch(f"http://pictures.example:{port}{path.replace('{port}', str(port))}")
    assert all(host != f"inside.example:{port}" for _, host in site.asked)


def test_a_large_one_is_not_read_to_its_end(port: int) -> None:
    with pytest.raises(RequestTooLarge, match="100,000"):
        fetcher().fetch(f"http://pictures.example:{port}/large")


def test_a_slow_one_is_given_up(port: int) -> None:
    with pytest.raises(UnfetchableUrl, match=r"within 0\.2 s"):
        fetcher(FetchLimits(max_bytes=1000, timeout_s=0.2)).fetch(f"http://pictures.example:{port}/never")


@pytest.mark.parametrize("what", ["head", "continue", "body", "to-its-end", "chunks"])
def test_one_that_sends_a_byte_now_and_then_is_given_up(port: int, what: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(UnfetchableUrl, match=r"within 0\.3 s"):
        fetcher(FetchLimits(max_bytes=100_000, timeout_s=0.3)).fetch(f"http://pictures.example:{port}/drip/{what}")
    assert time.monotonic() - began_s < 5, "a busy machine is slow, but the bytes would have come for minutes"


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
def test_loopback_is_refused_without_a_connection(site: Site, port: int, host: str) -> None:
    with pytest.raises(UnfetchableUrl, match=r"public internet|not known"):
        Fetcher(LIMITS).fetch(f"http://{host}:{port}/")
    assert site.asked == []


def test_a_name_that_changes_its_address_gains_nothing(port: int) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    once = Fetcher(replace(LIMITS, networks=LOOPBACK), resolve=lambda host, port: next(answers))
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


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `pictures.example`, signed by itself, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    key, file = folder / "key.pem", folder / "certificate.pem"
    request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test"]
    made = [openssl, *request, "-addext", "subjectAltName=DNS:pictures.example", "-keyout", str(key), "-out", str(file)]
    subprocess.run(made, check=True, capture_output=True)
    file.write_text(key.read_text() + file.read_text())
    return file


def test_a_picture_is_fetched_over_tls_from_who_proves_the_name(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_pictures(certificate=certificate) as site:
        with pytest.raises(UnfetchableUrl, match="SSLCertVerificationError"):
            fetcher().fetch(f"https://pictures.example:{site.port}/cat.png")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # what the system trusts
        assert fetcher().fetch(f"https://pictures.example:{site.port}/cat.png") == PICTURE
        assert site.asked == [("/cat.png", f"pictures.example:{site.port}")]
        redirected = f"https://pictures.example:{site.port}/redirect/https://pictures.example:{site.port}/cat.png"
        assert fetcher().fetch(redirected) == PICTURE
        with pytest.raises(UnfetchableUrl, match="SSLCertVerificationError"):
            fetcher().fetch(f"https://other.example:{site.port}/cat.png")


def test_limits_hold_over_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving_pictures(certificate=certificate) as site:
        address = f"https://pictures.example:{site.port}"
        with pytest.raises(RequestTooLarge, match="100,000"):
            fetcher().fetch(f"{address}/large")
        with pytest.raises(UnfetchableUrl, match="not on the public internet"):
            fetcher().fetch(f"{address}/redirect/https://inside.example:{site.port}/cat.png")
        for path in ("/never", "/drip/head", "/drip/body"):
            began_s = time.monotonic()
            with pytest.raises(UnfetchableUrl, match="did not answer within"):
                fetcher(replace(LIMITS, timeout_s=0.5)).fetch(f"{address}{path}")
            assert time.monotonic() - began_s < 5


def test_who_never_ends_the_handshake_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UnfetchableUrl, match="did not answer within"):
        fetcher(replace(LIMITS, timeout_s=0.5)).fetch(f"https://pictures.example:{silent.getsockname()[1]}/cat.png")
