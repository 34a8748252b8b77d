"""A bounded number of searches runs and waits, each within its time, and nobody works for those who went away."""

import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from api import open_store
from api.http.admission import MAX_RUNNING, Ticket, _ticket
from api.http.service import Service
from api.http.settings import load_service_settings
from api.http.threads import leaders_at_once
from sightline.types import Embeddings
from tests.api.http.live import DEADLINE_S, GatedEncoder, Live, Reply, running, wait_until

MAX_WAITING = 2


@pytest.fixture
def encoder() -> GatedEncoder:
    return GatedEncoder()


@pytest.fixture
def live(tmp_path: Path, photos: Path, encoder: GatedEncoder) -> Iterator[Live]:
    """A service over the six photos, where two searches may wait."""
    settings = load_service_settings(port=0, max_waiting_requests=MAX_WAITING)
    with open_store(tmp_path / "store", encoder=encoder) as sightline:
        sightline.index(photos)
        with running(Service(sightline, settings)) as live:
            yield live


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(MAX_RUNNING + MAX_WAITING + 4) as threads:
        yield threads


def fill(live: Live, threads: ThreadPoolExecutor, *, num_waiting: int) -> list[Future[Reply]]:
    """Searches in every place, and some that wait for one; one after the other, so that all are what they are meant to be."""
    admission, asked = live.service.admission, []
    for number in range(MAX_RUNNING + num_waiting):
        asked.append(threads.submit(live.search, f"red {number}"))
        wait_until(lambda number=number: admission.num_running + admission.num_waiting == number + 1)  # type: ignore[misc]
    return asked


def test_one_more_than_may_wait_is_told_at_once_to_come_again(live: Live, encoder: GatedEncoder, threads: ThreadPoolExecutor) -> None:
    encoder.gate.clear()
    asked = fill(live, threads, num_waiting=MAX_WAITING)
    refused = live.search("blue")
    encoder.gate.set()

    assert refused.status == 429
    assert refused.body["type"] == "Overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    assert [future.result(DEADLINE_S).status for future in asked] == [200] * len(asked)
    wait_until(lambda: live.service.admission.num_running == 0)
    assert live.search("blue").status == 200


def test_it_is_told_before_its_body_has_come(live: Live, encoder: GatedEncoder, threads: ThreadPoolExecutor) -> None:
    encoder.gate.clear()
    asked = fill(live, threads, num_waiting=MAX_WAITING)
    with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as client:
        client.sendall(live.request("blue")[:-5])
        answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: " in answer.lower()
        assert client.recv(1) == b""  # nobody waits for the rest
    assert live.get("/livez").status == 200  # which needs no place
    encoder.gate.set()
    assert [future.result(DEADLINE_S).status for future in asked] == [200] * len(asked)


def test_a_search_past_its_deadline_is_answered_503_and_frees_its_place_when_it_is_over(live: Live, encoder: GatedEncoder) -> None:
    encoder.gate.clear()
    late = live.search("red", {"X-Deadline-Ms": "100"})

    assert late.status == 503
    assert late.body["type"] == "DeadlineExceeded"
    assert "100 ms" in late.body["detail"]
    assert live.service.admission.num_running == 1  # its thread cannot be stopped
    encoder.gate.set()
    wait_until(lambda: live.service.admission.num_running == 0)


def test_what_is_late_before_it_is_embedded_never_is(live: Live, encoder: GatedEncoder, threads: ThreadPoolExecutor) -> None:
    encoder.gate.clear()
    begun = ["red", "white"][: leaders_at_once()]
    first = [threads.submit(live.search, words) for words in begun]
    wait_until(lambda: sorted(encoder.asked) == begun)
    assert live.search("green", {"X-Deadline-Ms": "100"}).status == 503
    encoder.gate.set()

    assert [each.result(DEADLINE_S).status for each in first] == [200] * len(begun)
    wait_until(lambda: live.service.admission.num_running == 0)
    assert live.search("blue").status == 200
    assert sorted(encoder.asked) == ["blue", *begun]


def test_a_deadline_passes_while_it_waits_for_a_place(live: Live, encoder: GatedEncoder, threads: ThreadPoolExecutor) -> None:
    encoder.gate.clear()
    asked = fill(live, threads, num_waiting=0)
    late = live.search("green", {"X-Deadline-Ms": "100"})
    assert (late.status, late.body["type"]) == (503, "DeadlineExceeded")
    assert live.service.admission.num_waiting == 0
    encoder.gate.set()

    assert [future.result(DEADLINE_S).status for future in asked] == [200] * len(asked)
    assert "green" not in encoder.asked


def test_a_client_that_goes_away_frees_its_place(live: Live, encoder: GatedEncoder, threads: ThreadPoolExecutor) -> None:
    encoder.gate.clear()
    asked = fill(live, threads, num_waiting=0)
    leavers = [socket.create_connection(("127.0.0.1", live.port)) for _ in range(MAX_WAITING)]
    for leaver in leavers:
        leaver.sendall(live.request("green"))
    wait_until(lambda: live.service.admission.num_waiting == MAX_WAITING)
    assert live.search("blue").status == 429
    for leaver in leavers:
        leaver.close()
    wait_until(lambda: live.service.admission.num_waiting == 0)
    admitted = threads.submit(live.search, "yellow")
    wait_until(lambda: live.service.admission.num_waiting == 1)
    encoder.gate.set()

    assert admitted.result(DEADLINE_S).status == 200
    assert [future.result(DEADLINE_S).status for future in asked] == [200] * len(asked)
    assert "green" not in encoder.asked


@pytest.mark.parametrize("given", ["0", "-5", "1.5", "soon", "9" * 12, ""])
def test_a_deadline_that_is_none_is_refused(live: Live, given: str) -> None:
    refused = live.search("red", {"X-Deadline-Ms": given})
    assert (refused.status, refused.body["type"]) == (422, "InvalidRequest")


def test_a_later_deadline_than_the_service_allows_is_the_services(live: Live) -> None:
    assert live.search("red", {"X-Deadline-Ms": "99999999"}).status == 200


def test_a_shutdown_finishes_what_it_began(live: Live, encoder: GatedEncoder, threads: ThreadPoolExecutor) -> None:
    encoder.gate.clear()
    begun = threads.submit(live.search, "red")
    wait_until(lambda: encoder.asked == ["red"])
    live.server.should_exit = True  # what SIGTERM sets
    with pytest.raises(AssertionError):
        wait_until(lambda: not live.thread.is_alive(), within_s=0.3)
    encoder.gate.set()

    assert begun.result(DEADLINE_S).status == 200
    wait_until(lambda: not live.thread.is_alive())


def test_searches_that_run_together_are_embedded_together(live: Live, encoder: GatedEncoder, threads: ThreadPoolExecutor) -> None:
    encoder.gate.clear()
    asked = fill(live, threads, num_waiting=0)
    encoder.gate.set()
    answers = [future.result(DEADLINE_S) for future in asked]

    assert {answer.status for answer in answers} == {200}
    assert {answer.body["hits"][0]["key"] for answer in answers} == {"red.png"}
    assert sorted(encoder.asked) == sorted(f"red {number}" for number in range(MAX_RUNNING))


class _WhoseTime(GatedEncoder):
    """Remembers by whose deadline each pass runs."""

    def __init__(self) -> None:
        super().__init__()
        self.tickets: list[Ticket | None] = []

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        self.tickets.append(_ticket.get())
        return super().embed_texts(texts)


def test_the_deadline_of_who_leads_is_nobody_elses(tmp_path: Path, photos: Path) -> None:
    encoder = _WhoseTime()
    with open_store(tmp_path / "store", encoder=encoder) as sightline:
        sightline.index(photos)
        with running(Service(sightline, load_service_settings(port=0))) as live:
            encoder.tickets.clear()
            assert live.search("red").status == 200

    assert encoder.tickets == [None]
