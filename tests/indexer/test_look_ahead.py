"""Bounded look-ahead and the budget of pixels."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from indexer.look_ahead import PixelBudget, map_ahead


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_results_come_in_the_order_of_the_inputs(executor: ThreadPoolExecutor, limit: int) -> None:
    assert list(map_ahead(executor, lambda number: number * number, range(50), limit=limit)) == [number * number for number in range(50)]


def test_no_more_inputs_are_drawn_than_allowed(executor: ThreadPoolExecutor) -> None:
    drawn = 0

    def inputs() -> Iterator[int]:
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield number

    for consumed, _ in enumerate(map_ahead(executor, lambda number: number, inputs(), limit=5)):
        assert drawn <= consumed + 5


def test_an_error_is_raised_in_its_turn(executor: ThreadPoolExecutor) -> None:
    results = map_ahead(executor, lambda number: 1 // (3 - number), range(10), limit=8)

    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_leaves_what_was_not_begun() -> None:
    gate = threading.Event()
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        if number:
            gate.wait()

    with ThreadPoolExecutor(1) as pool:
        results = map_ahead(pool, work, range(100), limit=50)
        next(results)
        results.close()
        gate.set()

    assert len(begun) <= 2


def test_pictures_wait_for_room_and_one_that_is_too_large_goes_alone() -> None:
    budget = PixelBudget(100)
    at_once = 0
    most = 0
    lock = threading.Lock()

    def decode(num_pixels: int) -> None:
        nonlocal at_once, most
        with budget.take(num_pixels):
            with lock:
                at_once += min(num_pixels, 100)
                most = max(most, at_once)
            with lock:
                at_once -= min(num_pixels, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [40, 1000, 60, 30, 100, 5] * 50))

    assert most <= 100
    with budget.take(100):
        pass  # all of it came back
