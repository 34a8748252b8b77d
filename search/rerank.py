"""The second look: the first candidates of a query read again by a fusion encoder, and put in a better order.

What has been read by the deadline is reordered among its own places; what has not, and what has no patches, keeps its place. A place is
decided by what the first stage orders by + weight * match logit, with the weight that was fitted on validation pictures.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search.query import Query, Words
from search.retrieve import RankedCandidate
from sightline.errors import InvalidQuery
from sightline.storage.snapshot import Snapshot
from sightline.types import Modality

if TYPE_CHECKING:  # they import torch, which a query without words can do without
    from sightline.encoders.matcher import Matcher
    from sightline.encoders.tokens import TextTokens

DEFAULT_DEPTH = 64
MAX_DEPTH = 10_000
_READ_AT_ONCE = 32
"""Candidates between two looks at the clock: some 10 ms on two cores."""


@dataclass(frozen=True, slots=True)
class Reranking:
    """How a second look is taken. Raises `InvalidQuery` for values that make no sense."""

    depth: int = DEFAULT_DEPTH  # candidates that are read, whatever the number of hits
    deadline_ms: float | None = None  # of reading; None: until all are read
    min_match: float | None = None  # hits below this match probability are left out

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= MAX_DEPTH:
            raise InvalidQuery(f"rerank_depth is {self.depth}; it must be between 1 and {MAX_DEPTH:,}")
        if self.deadline_ms is not None and not self.deadline_ms > 0:
            raise InvalidQuery(f"the rerank deadline is {self.deadline_ms:g} ms; it must be above 0")
        if self.min_match is not None and not 0 <= self.min_match <= 1:
            raise InvalidQuery(f"min_match is {self.min_match:g}; it must be a probability, from 0 to 1")


@dataclass(frozen=True, slots=True)
class Look:
    """What the second look says of one candidate."""

    first_rank: int  # of the first stage, from 1
    match_logit: float | None  # None: not read
    match_probability: float | None


@dataclass(frozen=True, slots=True)
class SecondLook:
    """Candidates in their final order, what was seen, and how many were read."""

    candidates: tuple[RankedCandidate, ...]
    looks: tuple[Look, ...]  # of the candidates, in their order
    num_read: int
    num_without_patches: int  # of those that were to be read


def words_to_match(query: Query) -> list[Words] | None:
    """The positive words of a query that asks by words alone; None for any other, which a fusion encoder cannot read."""
    if any(not isinstance(part, Words) for part in query.parts):
        return None
    return [part for part in query.parts if isinstance(part, Words) and part.weight > 0] or None


def rerank(
    candidates: Sequence[RankedCandidate],
    snapshot: Snapshot,
    matcher: "Matcher",
    texts: "TextTokens",
    weights: Sequence[float],
    reranking: Reranking,
) -> SecondLook:
    """Reads the first `reranking.depth` of pictures in first-stage order; `texts` are the query's words and `weights` what each counts."""
    started = time.perf_counter()
    first = candidates[: reranking.depth]
    ids = np.array([each.item_id for each in first if each.modality is Modality.IMAGE], dtype=np.int64)
    readable = ids[snapshot.has_patches(ids, fusion_fingerprint=matcher.fingerprint)] if len(ids) else ids
    shares = np.asarray(weights, dtype=np.float32) / np.float32(sum(weights))
    logit_by_id: dict[int, float] = {}
    for start in range(0, len(readable), _READ_AT_ONCE):
        if reranking.deadline_ms is not None and (time.perf_counter() - started) * 1000 >= reranking.deadline_ms:
            break
        chosen = readable[start : start + _READ_AT_ONCE]
        patches = snapshot.patches(chosen, fusion_fingerprint=matcher.fingerprint).dequantised()
        logits = shares @ matcher.match_logits(texts, patches)  # (chosen,)
        logit_by_id |= dict(zip(chosen.tolist(), logits.tolist(), strict=True))
    found = [logit_by_id.get(each.item_id) for each in candidates]
    probability_by_id = _probabilities(logit_by_id, matcher)
    order = combined_order([each.ranking_similarity for each in candidates], found, weight=matcher.combination.text_to_image)
    looks = [
        Look(rank, logit, probability_by_id.get(each.item_id)) for rank, (each, logit) in enumerate(zip(candidates, found, strict=True), 1)
    ]
    kept = [place for place in order if _passes(looks[place], reranking.min_match)]
    return SecondLook(
        tuple(candidates[place] for place in kept), tuple(looks[place] for place in kept), len(logit_by_id), len(ids) - len(readable)
    )


def combined_order(similarities: Sequence[float], logits: Sequence[float | None], *, weight: float) -> list[int]:
    """Positions in their final order: those with a logit reordered among the places that they hold, the others where they are.

    `similarities` are what the first stage orders by, descending. Equal values keep their first-stage order.
    """
    read = [place for place, logit in enumerate(logits) if logit is not None]
    values = {place: similarities[place] + weight * (logits[place] or 0.0) for place in read}
    best = iter(sorted(read, key=lambda place: (-values[place], place)))
    return [next(best) if logit is not None else place for place, logit in enumerate(logits)]


def _passes(look: Look, min_match: float | None) -> bool:
    """What was not read cannot be said to match."""
    return min_match is None or (look.match_probability is not None and look.match_probability >= min_match)


def _probabilities(logit_by_id: dict[int, float], matcher: "Matcher") -> dict[int, float]:
    logits: NDArray[np.float32] = np.array(list(logit_by_id.values()), dtype=np.float32)
    return dict(zip(logit_by_id, matcher.calibration.probabilities(logits).tolist(), strict=True))
