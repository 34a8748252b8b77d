"""The second look: the first candidates of a query read again by a fusion encoder, and put in a better order.

What has been read by the deadline is reordered among its own places; what has not, and what cannot be read, keeps its place. A place is
decided by what the first stage orders by + weight * match logit, with the weight that was fitted on validation pictures.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search.readers import CandidateReader, Reading
from search.retrieve import RankedCandidate
from sightline.errors import InvalidQuery
from sightline.types import ItemId, Modality

if TYPE_CHECKING:  # it imports torch, which a query without a second look can do without
    from sightline.encoders.matcher import Calibration

DEFAULT_DEPTH = 64
MAX_DEPTH = 10_000


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
    num_to_read: int  # of the modality that the fusion encoder reads, among the first `depth`
    num_read: int
    logit_weight: float  # what a match logit of a text with many words counts beside a similarity
    num_unreadable: int  # of those that were to be read: no patches, or a picture that is gone


def rerank(
    candidates: Sequence[RankedCandidate],
    reader: CandidateReader,
    *,
    weight: float,
    calibration: "Calibration",
    reranking: Reranking,
    began: float,
) -> SecondLook:
    """Has `reader` read the first `reranking.depth` of the candidates, in first-stage order; `weight` is what a match logit counts.

    A deadline counts from `began`, on the clock of `time.perf_counter`. Nothing is prepared where that is known to take longer. Under a
    deadline a small pass tells how long a candidate takes, and what
    follows is as large as the time left allows: a pass that has begun cannot be broken off.
    """
    first = to_read(candidates, reader.modality, reranking)
    readable = reader.readable(first)
    reading_by_id: dict[ItemId, Reading] = {}
    num_unreadable = len(first) - len(readable)
    deadline = math.inf if reranking.deadline_ms is None else began + reranking.deadline_ms / 1000
    num_wanted = reader.items_in_a_pass if reranking.deadline_ms is None else reader.items_in_first_pass
    now = time.perf_counter()
    if readable and now + reader.preparing_s < deadline:
        reader.prepare()
        now = time.perf_counter()
    else:
        readable = []
    while readable and now < deadline:
        chosen, readable, pass_began = readable[:num_wanted], readable[num_wanted:], now
        found = reader.read(chosen)
        num_unreadable += len(chosen) - len(found)
        reading_by_id |= found
        now = time.perf_counter()
        if reranking.deadline_ms is None:
            continue
        item_s = max((now - pass_began) / len(chosen), 1e-9)
        num_wanted = min(reader.items_in_a_pass, int(max(deadline - now, 0.0) / item_s))
        if num_wanted < min(reader.items_in_first_pass, len(readable)):  # which take no less time than as many
            break
    return second_look(
        candidates,
        reading_by_id,
        num_to_read=len(first),
        num_unreadable=num_unreadable,
        weight=weight,
        calibration=calibration,
        min_match=reranking.min_match,
    )


def to_read(candidates: Sequence[RankedCandidate], modality: Modality, reranking: Reranking) -> list[ItemId]:
    """The first of the candidates, as far as they are of the modality that can be read."""
    return [each.item_id for each in candidates[: reranking.depth] if each.modality is modality]


def second_look(
    candidates: Sequence[RankedCandidate],
    reading_by_id: Mapping[ItemId, Reading],
    *,
    num_to_read: int,
    num_unreadable: int,
    weight: float,
    calibration: "Calibration",
    min_match: float | None,
) -> SecondLook:
    """The candidates in the order that what was read of them gives, without those below `min_match`."""
    readings = [reading_by_id.get(each.item_id) for each in candidates]
    weighed = [None if each is None else each.weighed_logit for each in readings]
    order = combined_order([each.ranking_similarity for each in candidates], weighed, weight=weight)
    looks = _looks(readings, calibration)
    kept = [place for place in order if _passes(looks[place], min_match)]
    return SecondLook(
        candidates=tuple(candidates[place] for place in kept),
        looks=tuple(looks[place] for place in kept),
        num_to_read=num_to_read,
        num_read=len(reading_by_id),
        logit_weight=weight,
        num_unreadable=num_unreadable,
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


def _looks(readings: Sequence[Reading | None], calibration: "Calibration") -> list[Look]:
    known = [Reading(0.0) if read is None else read for read in readings]
    logits: NDArray[np.float32] = np.array([read.match_logit for read in known], dtype=np.float32)
    evidence: NDArray[np.float32] = np.array([read.evidence for read in known], dtype=np.float32)
    return [
        Look(rank, None, None) if read is None else Look(rank, read.match_logit, probability)
        for rank, (read, probability) in enumerate(zip(readings, calibration.probabilities(logits, evidence).tolist(), strict=True), 1)
    ]
