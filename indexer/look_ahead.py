"""Work done on threads ahead of who consumes it, in order and never further ahead than allowed."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TypeVar

_Input = TypeVar("_Input")
_Output = TypeVar("_Output")


def map_ahead(
    executor: Executor, function: Callable[[_Input], _Output], inputs: Iterable[_Input], *, limit: int
) -> Generator[_Output, None, None]:
    """`function` of every input, in order; at most `limit` results are under way or waiting, so memory is bounded by it.

    What was not begun when the iterator is closed is not begun any more. Raises what `function` raises, in its turn.
    """
    pending: deque[Future[_Output]] = deque()
    try:
        for given in inputs:
            pending.append(executor.submit(function, given))
            if len(pending) >= limit:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class PixelBudget:
    """Pixels that may be decoded at the same time over all threads; a picture above it is decoded alone."""

    def __init__(self, num_pixels: int) -> None:
        self._capacity = num_pixels
        self._free = num_pixels
        self._changed = threading.Condition()

    @contextmanager
    def take(self, num_pixels: int) -> Iterator[None]:
        """Waits until there is room for a picture of so many pixels, and keeps it for the block."""
        wanted = min(num_pixels, self._capacity)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()
