"""Warming up: what the first search of a collection would wait for, its encoder, its fusion encoder and its index, before anybody asks."""

import logging
import threading
import time
from collections.abc import Callable

from api.library import Sightline
from search.engine import DEFAULT_RERANKING
from sightline.errors import SightlineError

logger = logging.getLogger(__name__)

_WORDS = "a dog on the beach"


class Warming:
    """A thread that searches every collection once; whoever asks for readiness waits for `is_over`."""

    def __init__(self, sightline: Sightline) -> None:
        self._sightline = sightline
        self._over = threading.Event()
        self._over.set()  # an app that somebody else serves may be asked cold

    def start(self, *, then: Callable[[], None] = lambda: None) -> None:
        """Begin; once. `then` is called before it is over, when all that lives as long as the process is there."""
        self._over.clear()
        threading.Thread(target=self._warm, args=(then,), name="warming", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether every collection was searched, or could not be; true also where nobody asked for it."""
        return self._over.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Until it is over; false where that takes longer."""
        return self._over.wait(timeout_s)

    def _warm(self, then: Callable[[], None]) -> None:
        try:
            for record in self._sightline.collections():
                self._search(record.name)
            then()
        except SightlineError as error:
            logger.warning("warming up ended early: %s", error)
        finally:
            self._over.set()

    def _search(self, collection: str) -> None:
        """What one collection lacks is no reason to leave the others cold; who asks for it is told."""
        started = time.perf_counter()
        try:
            self._sightline.search(_WORDS, collection=collection, k=10, reranking=DEFAULT_RERANKING)
        except SightlineError as error:
            logger.warning("collection %s is not ready: %s", collection, error)
        else:
            logger.info("collection %s is warm after %.1f s", collection, time.perf_counter() - started)
