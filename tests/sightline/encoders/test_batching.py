"""Joined calls give what single ones give: none is lost, order is kept, and an error belongs to the call that caused it."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.encoders.batching import BatchedEncoder, Batcher, BatchOptions, Turns
from sightline.encoders.composed import ComposedEncoder
from sightline.errors import DeadlineExceeded, InvalidQuery

DEADLINE_S = 20.0


class Network:
    """Doubles numbers, in so many passes at a time at most; a gate holds passes until a test lets them go. Negative numbers are errors."""

    def __init__(self, num_at_once: int = 1) -> None:
        self.passes: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._inside = threading.BoundedSemaphore(num_at_once)

    def __call__(self, numbers: list[int]) -> list[int]:
        assert self._inside.acquire(blocking=False), "more passes at once than there may be"
        try:
            self.passes.append(numbers)
            assert self.gate.wait(DEADLINE_S)
            if any(number < 0 for number in numbers):
                raise InvalidQuery(f"negative: {numbers}")
            return [2 * number for number in numbers]
        finally:
            self._inside.release()


def wait_until(condition: Callable[[], bool]) -> None:
    """Until it holds, or fail."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        threading.Event().wait(0.001)


def ask_while_busy(batcher: Batcher[int, int], network: Network, calls: Sequence[Sequence[int]]) -> list[list[int] | BaseException]:
    """What each call gets, all of them made, in this order, while a first pass is held."""
    network.gate.clear()
    with ThreadPoolExecutor(len(calls) + 1) as threads:
        first = threads.submit(batcher, [1])
        wait_until(lambda: len(network.passes) == 1)
        asked = []
        for number, call in enumerate(calls, start=1):
            asked.append(threads.submit(batcher, call))
            wait_until(lambda number=number: len(batcher._waiting) == number)  # type: ignore[misc]
        network.gate.set()
        assert first.result(DEADLINE_S) == [2]
        return [future.exception(DEADLINE_S) or future.result() for future in asked]


def test_who_finds_the_network_idle_goes_alone_and_at_once() -> None:
    network = Network()
    batcher = Batcher(network, options=BatchOptions(wait_ms=10_000))

    started = time.monotonic()
    assert [batcher([number]) for number in range(5)] == [[0], [2], [4], [6], [8]]

    assert network.passes == [[0], [1], [2], [3], [4]]
    assert time.monotonic() - started < 5


def test_who_finds_it_busy_is_joined_in_order() -> None:
    network = Network()
    found = ask_while_busy(Batcher(network, options=BatchOptions(wait_ms=0)), network, [[2, 3], [4], [5, 6, 7]])

    assert found == [[4, 6], [8], [10, 12, 14]]
    assert network.passes == [[1], [2, 3, 4, 5, 6, 7]]


def test_a_pass_is_never_larger_than_asked_for() -> None:
    network = Network()
    found = ask_while_busy(Batcher(network, options=BatchOptions(max_batch=3, wait_ms=0)), network, [[2, 3], [4, 5], [6, 7, 8, 9], [10]])

    assert found == [[4, 6], [8, 10], [12, 14, 16, 18], [20]]
    assert network.passes == [[1], [2, 3], [4, 5], [6, 7, 8, 9], [10]]


def test_as_many_passes_as_there_are_leaders_run_at_once_and_the_others_are_joined() -> None:
    network = Network(2)
    batcher = Batcher(network, options=BatchOptions(wait_ms=0, num_leaders=2))
    network.gate.clear()
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(batcher, [1]), threads.submit(batcher, [2])]
        wait_until(lambda: len(network.passes) == 2)
        for number in (3, 4, 5, 6):
            asked.append(threads.submit(batcher, [number]))
            wait_until(lambda number=number: len(batcher._waiting) == number - 2)  # type: ignore[misc]
        network.gate.set()
        assert [future.result(DEADLINE_S) for future in asked] == [[2], [4], [6], [8], [10], [12]]
    assert sorted(network.passes[:2]) == [[1], [2]]
    assert sorted(number for numbers in network.passes[2:] for number in numbers) == [3, 4, 5, 6]
    assert len(network.passes) <= 4
    assert batcher._num_leading == 0


def test_who_comes_first_after_a_pass_of_many_waits_for_them() -> None:
    network = Network()
    batcher = Batcher(network, options=BatchOptions(wait_ms=DEADLINE_S * 1000))
    assert ask_while_busy(batcher, network, [[2], [3], [4]]) == [[4], [6], [8]]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(batcher, [[5], [6], [7]])) == [[10], [12], [14]]
    assert [len(numbers) for numbers in network.passes] == [1, 3, 3]


def test_an_error_goes_to_the_call_that_caused_it() -> None:
    network = Network()
    found = ask_while_busy(Batcher(network, options=BatchOptions(wait_ms=0)), network, [[2], [-3], [4]])

    assert [found[0], found[2]] == [[4], [8]]
    assert isinstance(found[1], InvalidQuery)
    assert str(found[1]) == "negative: [-3]"


def test_what_became_late_while_it_waited_is_not_begun() -> None:
    late: set[int] = set()
    of_this_thread = threading.local()

    def lateness() -> Callable[[], None]:
        name = getattr(of_this_thread, "name", 0)

        def refuse() -> None:
            if name in late:
                raise DeadlineExceeded("nobody waits")

        return refuse

    network = Network()
    batcher = Batcher(network, options=BatchOptions(wait_ms=0), lateness=lateness)

    def ask(name: int) -> list[int]:
        of_this_thread.name = name
        return batcher([name])

    network.gate.clear()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(ask, 1)
        wait_until(lambda: len(network.passes) == 1)
        others = [threads.submit(ask, name) for name in (2, 3)]
        wait_until(lambda: len(batcher._waiting) == 2)
        late.add(2)
        network.gate.set()
        assert first.result(DEADLINE_S) == [2]
        assert isinstance(others[0].exception(DEADLINE_S), DeadlineExceeded)
        assert others[1].result(DEADLINE_S) == [6]
    assert [2] not in network.passes
    assert not any(2 in numbers for numbers in network.passes)


@settings(max_examples=25)
@given(
    calls=st.lists(st.lists(st.integers(-1, 50), min_size=0, max_size=4), min_size=1, max_size=40),
    num_threads=st.integers(1, 8),
    max_batch=st.integers(1, 10),
    wait_ms=st.sampled_from([0.0, 1.0]),
    num_leaders=st.integers(1, 3),
)
def test_no_call_is_lost_and_each_gets_its_own(
    calls: list[list[int]], num_threads: int, max_batch: int, wait_ms: float, num_leaders: int
) -> None:
    network = Network(num_leaders)
    batcher = Batcher(network, options=BatchOptions(max_batch=max_batch, wait_ms=wait_ms, num_leaders=num_leaders))
    with ThreadPoolExecutor(num_threads) as threads:
        asked = [threads.submit(batcher, call) for call in calls]
        for call, future in zip(calls, asked, strict=True):
            if -1 in call:
                assert isinstance(future.exception(DEADLINE_S), InvalidQuery)
            else:
                assert future.result(DEADLINE_S) == [2 * number for number in call]
    assert not batcher._waiting
    assert batcher._num_leading == 0
    assert batcher([7]) == [14]


def test_embeddings_and_tokens_are_those_of_the_encoder_alone(tiny_encoder: ComposedEncoder) -> None:
    batched = BatchedEncoder(tiny_encoder, options=BatchOptions(max_batch=8, wait_ms=2))
    texts = [" ".join(["a dog on the beach"] * (1 + number % 3)) + f" {number}" for number in range(24)]
    with ThreadPoolExecutor(8) as threads:
        embeddings = list(threads.map(lambda text: batched.embed_texts([text]), texts))
        both = list(threads.map(lambda text: batched.embed_texts_with_tokens([text]), texts))

    for text, embedding, (embedding_beside, tokens) in zip(texts, embeddings, both, strict=True):
        expected, expected_tokens = tiny_encoder.embed_texts_with_tokens([text])
        # bfloat16 rounds to 3 digits, and a product's rounding depends on the shape of the batch.
        np.testing.assert_allclose(embedding, expected, atol=0.02)
        np.testing.assert_allclose(embedding_beside, expected, atol=0.02)
        np.testing.assert_array_equal(tokens.num_tokens, expected_tokens.num_tokens)
        np.testing.assert_allclose(tokens.hidden_states, expected_tokens.hidden_states, atol=0.1)


def test_pictures_are_joined_too(tiny_encoder: ComposedEncoder) -> None:
    batched = BatchedEncoder(tiny_encoder, options=BatchOptions())
    side = tiny_encoder.image_side
    pixels = np.random.default_rng(0).integers(0, 256, (6, side, side, 3), dtype=np.uint8)
    with ThreadPoolExecutor(6) as threads:
        embeddings = np.concatenate(list(threads.map(lambda one: batched.embed_pixels(one[np.newaxis]), pixels)))
    np.testing.assert_allclose(embeddings, tiny_encoder.embed_pixels(pixels), atol=0.02)


def test_nothing_asked_is_nothing_answered(tiny_encoder: ComposedEncoder) -> None:
    batched = BatchedEncoder(tiny_encoder, options=BatchOptions())
    assert batched.embed_texts([]).shape == (0, tiny_encoder.embedding_dim)


def test_turns_are_taken_in_the_order_of_asking() -> None:
    turns, order = Turns(), []

    def take(number: int) -> None:
        with turns:
            order.append(number)

    with ThreadPoolExecutor(4) as threads:
        with turns:
            taken = []
            for number in range(4):
                taken.append(threads.submit(take, number))
                wait_until(lambda number=number: len(turns._waiting) == number + 1)  # type: ignore[misc]
        for future in taken:
            future.result(DEADLINE_S)
    assert order == [0, 1, 2, 3]
    with turns:
        pass


@pytest.mark.parametrize("num_threads", [2, 8])
def test_a_turn_is_never_shared(num_threads: int) -> None:
    turns, inside = Turns(), threading.Lock()

    def take(_: int) -> None:
        with turns:
            assert inside.acquire(blocking=False)
            inside.release()

    with ThreadPoolExecutor(num_threads) as threads:
        assert len(list(threads.map(take, range(200)))) == 200
