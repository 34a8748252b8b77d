"""A service's encoders and searches: those of the library, with what its threads ask of them at the same time joined."""

import threading
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from api.encoder_shelf import EncoderShelf
from api.library import Sightline
from search.engine import DEFAULT_RERANKING, DEFAULT_TOP_K, Answer, is_of_words, log_answer
from search.query import Query
from search.rerank import Reranking
from sightline.encoders.encoder import Encoder
from sightline.settings import DEFAULT_COLLECTION
from sightline.storage.records import CollectionRecord
from sightline.types import Modality

if TYPE_CHECKING:  # they import torch, which a service needs when it is asked something
    from collections.abc import Callable

    from sightline.encoders.batching import BatchOptions, RefuseIfLate
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder


class JoiningShelf(EncoderShelf):
    """A shelf whose encoders serve many threads. Thread-safe: each is loaded once, by the first that asks."""

    def __init__(self, shelf: EncoderShelf, *, options: "BatchOptions", lateness: "Callable[[], RefuseIfLate]") -> None:
        self._shelf = shelf
        self._options = options
        self._lateness = lateness
        self._lock = threading.Lock()
        self._joined_by_encoder: dict[Encoder, Encoder] = {}
        self._joined_by_matcher: dict[FusionMatcher, FusionMatcher] = {}

    @property
    def chosen_name(self) -> str | None:
        """See `EncoderShelf`."""
        return self._shelf.chosen_name

    def for_new_collection(self) -> Encoder:
        """See `EncoderShelf`."""
        with self._lock:
            return self._joined(self._shelf.for_new_collection())

    def for_collection(self, record: CollectionRecord) -> Encoder:
        """See `EncoderShelf`."""
        with self._lock:
            return self._joined(self._shelf.for_collection(record))

    def matcher_for(self, record: CollectionRecord) -> "FusionMatcher | BlipMatcher | None":
        """See `EncoderShelf`."""
        with self._lock:
            return self._taking_turns(self._shelf.matcher_for(record))

    def matcher_of(self, encoder: Encoder, *, where: str) -> "FusionMatcher | BlipMatcher | None":
        """See `EncoderShelf`."""
        with self._lock:
            return self._taking_turns(self._shelf.matcher_of(encoder, where=where))

    def _joined(self, encoder: Encoder) -> Encoder:
        from sightline.encoders.batching import BatchedEncoder

        if encoder not in self._joined_by_encoder:
            shared = BatchedEncoder(cast("TokenEncoder", encoder), options=self._options, lateness=self._lateness)
            self._joined_by_encoder[encoder] = shared
        return self._joined_by_encoder[encoder]

    def _taking_turns(self, matcher: "FusionMatcher | BlipMatcher | None") -> "FusionMatcher | BlipMatcher | None":
        """BLIP's calls wait for each other by themselves."""
        from sightline.encoders.batching import TakingTurns
        from sightline.encoders.matcher import FusionMatcher

        if not isinstance(matcher, FusionMatcher):
            return matcher
        if matcher not in self._joined_by_matcher:
            self._joined_by_matcher[matcher] = TakingTurns(matcher, num_at_once=self._options.num_leaders, lateness=self._lateness)
        return self._joined_by_matcher[matcher]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A search for one phrase."""

    query: Query
    limits: "_Limits"


@dataclass(frozen=True, slots=True)
class _Limits:
    """What searches have to have in common to be answered together."""

    top_k: int
    collection: str
    reranking: Reranking | None


class JoiningSightline(Sightline):
    """An open store whose concurrent searches for one phrase are answered together. Thread-safe.

    What has a deadline for its second look is answered by itself, and so is what a pretrained fusion encoder reads pictures for: these
    take seconds, which others would have to wait for.
    """

    def __init__(
        self, sightline: Sightline, *, encoders: EncoderShelf, lateness: "Callable[[], RefuseIfLate]", options: "BatchOptions"
    ) -> None:
        from sightline.encoders.batching import Batcher
        from sightline.encoders.load import reads_stored_patches

        super().__init__(sightline.store, encoders=encoders, settings=sightline.settings)
        # Of their own each: who wants no second look does not wait for those of others, which take ten times as long.
        self._first_looks: Batcher[_Asked, Answer] = Batcher(self._answer_together, options=options, lateness=lateness)
        self._second_looks: Batcher[_Asked, Answer] = Batcher(self._answer_together, options=options, lateness=lateness)
        fusion = sightline.settings.fusion
        self._second_looks_are_joined = fusion is None or reads_stored_patches(str(fusion))

    def search(
        self,
        query: str | Path | Query,
        *,
        k: int = DEFAULT_TOP_K,
        modality: Modality | None = None,
        collection: str = DEFAULT_COLLECTION,
        reranking: Reranking | None = DEFAULT_RERANKING,
    ) -> Answer:
        """See `Sightline.search`."""
        can_be_joined = reranking is None or (reranking.deadline_ms is None and self._second_looks_are_joined)
        if can_be_joined and isinstance(query, Query) and is_of_words(query) and len(query.parts) == 1:  # so a batch has as many texts
            batcher = self._first_looks if reranking is None else self._second_looks
            (answer,) = batcher([_Asked(query, _Limits(k, collection, reranking))])
            log_answer(answer)  # here, where the log knows the request
            return answer
        return super().search(query, k=k, modality=modality, collection=collection, reranking=reranking)

    def _answer_together(self, asked: list[_Asked]) -> list[Answer]:
        """Those that have their limits in common are one search of many queries.

        It runs in a context of its own: the deadline of the request whose thread leads must not end the searches of the others.
        """
        answer_by_number: dict[int, Answer] = {}
        for limits in dict.fromkeys(each.limits for each in asked):
            numbers = [number for number, each in enumerate(asked) if each.limits == limits]
            queries = [asked[number].query for number in numbers]
            answers = Context().run(self._answered, queries, limits)
            answer_by_number |= zip(numbers, answers, strict=True)
        return [answer_by_number[number] for number in range(len(asked))]

    def _answered(self, queries: list[Query], limits: _Limits) -> list[Answer]:
        return self._engine.answer_many(queries, collection=limits.collection, top_k=limits.top_k, reranking=limits.reranking)


def joining(
    sightline: Sightline, *, max_batch: int, batch_wait_ms: float, lateness: "Callable[[], RefuseIfLate]", num_leaders: int = 1
) -> Sightline:
    """The same open store, for the threads of a service. It is closed with the other.

    With `num_leaders` 2 two batches are answered at the same time, each with a half of those who ask.
    """
    from sightline.encoders.batching import BatchOptions

    options = BatchOptions(max_batch=max_batch, wait_ms=batch_wait_ms, num_leaders=num_leaders)
    shelf = JoiningShelf(sightline.encoders, options=options, lateness=lateness)
    if max_batch == 1:  # nothing is joined, and a batcher would make searches take turns
        return Sightline(sightline.store, encoders=shelf, settings=sightline.settings)
    return JoiningSightline(sightline, encoders=shelf, lateness=lateness, options=options)
