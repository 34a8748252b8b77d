"""Searches that threads ask for at the same time: what is joined, what goes by itself, and that either gets the same answer."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api import Sightline
from api.http.joining import JoiningSightline, joining
from search.engine import Answer
from search.query import Query, parse_query
from search.rerank import Reranking
from sightline.encoders.batching import never_late
from sightline.encoders.composed import ComposedEncoder
from sightline.errors import EncoderUnavailable
from tests.api.tiny_fusion import WORDS, opened

PHRASES = ("two dogs on a beach", "ball", "a green cube on the grass beside a house", WORDS)
DEADLINE_S = 20.0


class Gate:
    """Holds the first search of many queries until it is opened, and remembers how many queries each had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.opened = threading.Event()
        whole = JoiningSightline._answered

        def answered(of: JoiningSightline, queries: list[Query], limits: Any) -> list[Answer]:
            self.sizes.append(len(queries))
            assert self.opened.wait(DEADLINE_S)
            return whole(of, queries, limits)

        monkeypatch.setattr(JoiningSightline, "_answered", answered)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def joined(fused: Sightline) -> Sightline:
    return joining(fused, max_batch=32, batch_wait_ms=50.0, lateness=lambda: never_late)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def all_asked(joined: Sightline, gate: Gate, threads: ThreadPoolExecutor, rerankings: Sequence[Reranking | None]) -> list[Future[Answer]]:
    """One search holds the gate; the others come meanwhile."""
    first = threads.submit(joined.search, parse_query("red"), reranking=rerankings[0])
    _wait_for(lambda: len(gate.sizes) == 1)
    asked = [threads.submit(joined.search, parse_query(words), k=5, reranking=rerankings[0]) for words in PHRASES]
    asked += [threads.submit(joined.search, parse_query(words), k=5, reranking=each) for each in rerankings[1:] for words in PHRASES[:2]]
    assert isinstance(joined, JoiningSightline)
    batcher = joined._first_looks if rerankings[0] is None else joined._second_looks
    _wait_for(lambda: len(batcher._waiting) == len(asked))
    gate.opened.set()
    first.result(DEADLINE_S)
    return asked


def _wait_for(condition: Any) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("reranking", [None, Reranking(), Reranking(depth=4, min_match=0.2)])
def test_searches_of_one_time_are_one_search_of_many_queries(
    fused: Sightline, joined: Sightline, gate: Gate, threads: ThreadPoolExecutor, reranking: Reranking | None
) -> None:
    asked = all_asked(joined, gate, threads, [reranking])
    for words, future in zip(PHRASES, asked, strict=True):
        alone, answer = fused.search(parse_query(words), k=5, reranking=reranking), future.result(DEADLINE_S)
        assert {hit.key: hit.first_rank for hit in answer} == {hit.key: hit.first_rank for hit in alone}
        assert [hit.ranking_similarity for hit in answer] == pytest.approx([hit.ranking_similarity for hit in alone], abs=1e-4)
        assert answer.reranked == alone.reranked
        assert (answer.reranked is None) == (reranking is None)
    assert gate.sizes == [1, len(PHRASES)]


def test_searches_of_other_limits_are_searches_of_their_own(joined: Sightline, gate: Gate, threads: ThreadPoolExecutor) -> None:
    for future in all_asked(joined, gate, threads, [Reranking(), Reranking(depth=3), Reranking(min_match=0.0)]):
        assert len(future.result(DEADLINE_S)) == 5
    assert sorted(gate.sizes) == [1, 2, 2, len(PHRASES)]


def test_who_wants_no_second_look_does_not_wait_for_those_of_others(
    joined: Sightline, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    whole, opened_gate = JoiningSightline._answered, threading.Event()

    def answered(of: JoiningSightline, queries: list[Query], limits: Any) -> list[Answer]:
        assert limits.reranking is None or opened_gate.wait(DEADLINE_S)
        return whole(of, queries, limits)

    monkeypatch.setattr(JoiningSightline, "_answered", answered)
    held = threads.submit(joined.search, parse_query(WORDS))
    assert len(joined.search(parse_query("red"), reranking=None)) == 10
    assert not held.done()
    opened_gate.set()
    assert held.result(DEADLINE_S).reranked is not None


def test_a_second_look_with_a_deadline_waits_for_nobody(joined: Sightline, gate: Gate, threads: ThreadPoolExecutor) -> None:
    held = threads.submit(joined.search, parse_query("red"))
    _wait_for(lambda: len(gate.sizes) == 1)
    answer = joined.search(parse_query(WORDS), reranking=Reranking(deadline_ms=60_000))
    assert answer.reranked is not None
    assert not held.done()
    gate.opened.set()
    held.result(DEADLINE_S)


def test_a_network_that_reads_pictures_is_not_joined(
    store: Path, tiny_encoder: ComposedEncoder, tmp_path: Path, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    """Its second looks take seconds each, which the others would wait for."""
    pretrained = tmp_path / "pretrained"
    pretrained.mkdir()
    (pretrained / "config.json").write_text("{}")
    with opened(store, tiny_encoder, pretrained) as sightline:
        joined = joining(sightline, max_batch=32, batch_wait_ms=50.0, lateness=lambda: never_late)
        held = threads.submit(joined.search, parse_query("red"), reranking=None)
        _wait_for(lambda: len(gate.sizes) == 1)
        with pytest.raises(EncoderUnavailable):  # it is asked for at once, and there is nothing in the folder
            joined.search(parse_query(WORDS))
        assert not held.done()
        gate.opened.set()
        assert len(held.result(DEADLINE_S)) == 10
