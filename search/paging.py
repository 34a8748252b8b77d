"""The pages of an answer after the first: no hit twice and none left out, whatever is added, changed or deleted between them.

An answer is recomputed for each page, so that nobody has to keep it. What makes its pages fit is a `Place`: the newest item that existed
when the first page was made (ids only grow, so what has a higher one is new and no hit), the items that were shown, and in their order
those that a second look has read and no page has shown yet. What has changed meanwhile may stand elsewhere than it would have; it is
shown once all the same, because what was shown is known by its id and not by its place.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from search.embed import EmbeddedPart
from search.rerank import Look, SecondLook
from search.retrieve import RankedCandidate, Retrieved, retrieve
from sightline.storage.snapshot import Snapshot
from sightline.types import ItemId, Modality

MAX_SHOWN = 10_000
"""Pages end here: who wants more has an export to make. A place holds every id that was shown, one or two bytes each."""

_GROWTH = 4
"""How much deeper the ranking is read each time that too few of it are old enough and not shown yet."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """An item that a second look has put in its order, to be shown on a later page."""

    item_id: ItemId
    first_rank: int
    match_probability: float | None  # None: not read by the deadline, or nothing to read


@dataclass(frozen=True, slots=True)
class Place:
    """Where the reader of an answer is: all that the next page has to know besides the query."""

    newest_id: ItemId
    shown: frozenset[ItemId]
    ahead: tuple[Ahead, ...]  # in their order; empty where there was no second look
    has_tail: bool  # whether the ranking goes on behind those ahead
    has_second_look: bool

    @property
    def num_shown(self) -> int:
        """Hits of all pages so far."""
        return len(self.shown)


@dataclass(frozen=True, slots=True)
class Page:
    """The candidates of one page in their order."""

    candidates: tuple[RankedCandidate, ...]
    looks: tuple[Look, ...]  # of the candidates, where there was a second look
    plan: str
    next_place: Place | None  # None: this page is the last


def first_page(
    candidates: Sequence[RankedCandidate], second: SecondLook | None, *, plan: str, newest_id: ItemId, top_k: int, depth: int, ends: bool
) -> Page:
    """The first `top_k` of `candidates`, which are one more than the page and the `depth` of the second look hold, where there are so many.

    `ends` says that nothing may follow what the second look has read.
    """
    if second is None:
        page, has_tail = tuple(candidates[:top_k]), len(candidates) > top_k
        return Page(page, (), plan, _next(newest_id, frozenset(), page, ahead=(), has_tail=has_tail, has_second_look=False))
    page, looks = second.candidates[:top_k], second.looks[:top_k]
    waiting = zip(second.candidates[top_k:depth], second.looks[top_k:depth], strict=True)
    ahead = tuple(Ahead(each.item_id, look.first_rank, look.match_probability) for each, look in waiting)
    has_tail = not ends and len(candidates) > max(top_k, depth)
    return Page(page, looks, plan, _next(newest_id, frozenset(), page, ahead=ahead, has_tail=has_tail, has_second_look=True))


def page_after(
    place: Place, snapshot: Snapshot, parts: Sequence[EmbeddedPart], *, top_k: int, modality: Modality | None, liked: Collection[ItemId]
) -> Page:
    """The next `top_k` hits; what was deleted is left out, and what a second look said is not asked again."""
    living = _living(place, snapshot, parts, modality=modality)
    page, looks, plan = [each for _, each in living[:top_k]], [look for look, _ in living[:top_k]], "as the second look has read them"
    ahead = tuple(Ahead(each.item_id, look.first_rank, look.match_probability) for look, each in living[top_k:])
    has_tail = place.has_tail
    if has_tail and len(page) < top_k:
        wanted = top_k - len(page)
        hidden = {*liked, *place.shown, *(each.item_id for each in place.ahead)}
        tail = _tail(snapshot, parts, wanted=wanted + 1, modality=modality, newest_id=place.newest_id, hidden=hidden)
        has_tail, plan = len(tail.candidates) > wanted, tail.plan
        first = place.num_shown + len(page) + 1
        looks += [Look(rank, None, None) for rank in range(first, first + len(tail.candidates[:wanted]))]
        page += tail.candidates[:wanted]
    following = _next(
        place.newest_id, place.shown, page, ahead=ahead, has_tail=has_tail and bool(page), has_second_look=place.has_second_look
    )
    return Page(tuple(page), tuple(looks) if place.has_second_look else (), plan, following)


def _living(
    place: Place, snapshot: Snapshot, parts: Sequence[EmbeddedPart], *, modality: Modality | None
) -> list[tuple[Look, RankedCandidate]]:
    """Those ahead that are still there, in their order."""
    if not place.ahead:
        return []
    ids = np.array([each.item_id for each in place.ahead], dtype=np.int64)
    found = {each.item_id: each for each in retrieve(snapshot, parts, top_k=len(ids), modality=modality, allowed=ids).candidates}
    looked = [(Look(each.first_rank, None, each.match_probability), found.get(each.item_id)) for each in place.ahead]
    return [(look, candidate) for look, candidate in looked if candidate is not None]


def _tail(
    snapshot: Snapshot,
    parts: Sequence[EmbeddedPart],
    *,
    wanted: int,
    modality: Modality | None,
    newest_id: ItemId,
    hidden: Collection[ItemId],
) -> Retrieved:
    """The best `wanted` of the items that are old enough and not hidden, read as deep as that takes."""
    num_items = snapshot.num_items(modality)
    top_k = wanted + len(hidden)
    while True:
        found = retrieve(snapshot, parts, top_k=max(1, min(top_k, num_items)), modality=modality)
        kept = [each for each in found.candidates if each.item_id <= newest_id and each.item_id not in hidden]
        if len(kept) >= wanted or top_k >= num_items or len(found.candidates) < top_k:
            return Retrieved(kept[:wanted], found.plan)
        top_k *= _GROWTH


def _next(
    newest_id: ItemId,
    shown: frozenset[ItemId],
    page: Sequence[RankedCandidate],
    *,
    ahead: tuple[Ahead, ...],
    has_tail: bool,
    has_second_look: bool,
) -> Place | None:
    shown |= {each.item_id for each in page}
    if len(shown) >= MAX_SHOWN or not (ahead or has_tail):
        return None
    return Place(newest_id, shown, ahead, has_tail, has_second_look)
