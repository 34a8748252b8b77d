"""The learning rate over a run."""

import math

WARM_UP_SHARE = 0.1


def cosine_cycle(position: int, total: int) -> float:
    """Factor in (0, 1] of step `position` (from 0) of `total`: a linear rise over the first tenth, then a cosine down to almost nothing."""
    warm_up = max(1, round(total * WARM_UP_SHARE))
    if position < warm_up:
        return (position + 1) / warm_up
    share = (position - warm_up) / max(1, total - warm_up)
    return max(1e-3, (1 + math.cos(math.pi * share)) / 2)
