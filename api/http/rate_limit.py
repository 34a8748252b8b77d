"""How often one key may ask: a token bucket each, which holds a minute's worth and fills steadily."""

import time
from collections.abc import Callable, Hashable

from sightline.errors import RateLimited

_MAX_BUCKETS = 10_000
"""There are fewer keys than that; callers without one are addresses of this machine."""


class RateLimit:
    """Buckets by who pays. For one event loop: it never waits, and is not thread-safe."""

    def __init__(self, requests_per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(requests_per_minute)
        self._per_second = requests_per_minute / 60
        self._clock = clock
        self._buckets: dict[Hashable, tuple[float, float]] = {}  # tokens, and the second at which there were so many

    def take(self, payer: Hashable) -> None:
        """One request of `payer`'s; raises `RateLimited` with the seconds until the next one may come."""
        now_s = self._clock()
        tokens = self._tokens(payer, now_s)
        if tokens < 1:
            wait_s = (1 - tokens) / self._per_second
            raise RateLimited(
                f"more than {self._capacity:.0f} requests within a minute; the next may come in {wait_s:.1f} s", retry_after_s=wait_s
            )
        if len(self._buckets) >= _MAX_BUCKETS and payer not in self._buckets:
            self._drop_full(now_s)
        self._buckets[payer] = (tokens - 1, now_s)

    def _tokens(self, payer: Hashable, now_s: float) -> float:
        tokens, since_s = self._buckets.get(payer, (self._capacity, now_s))
        return min(self._capacity, tokens + (now_s - since_s) * self._per_second)

    def _drop_full(self, now_s: float) -> None:
        """Forget those who have not asked for so long that they may as much as anybody new."""
        self._buckets = {payer: bucket for payer, bucket in self._buckets.items() if self._tokens(payer, now_s) < self._capacity}
