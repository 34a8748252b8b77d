"""A service's encoders: those of the library, with what its threads ask of them at the same time joined."""

import threading
from typing import TYPE_CHECKING, cast

from api.encoder_shelf import EncoderShelf
from api.library import Sightline
from sightline.encoders.encoder import Encoder
from sightline.storage.records import CollectionRecord

if TYPE_CHECKING:  # they import torch, which a service needs when it is asked something
    from collections.abc import Callable

    from sightline.encoders.batching import BatchOptions, RefuseIfLate
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder


class JoiningShelf(EncoderShelf):
    """A shelf whose encoders serve many threads. Thread-safe: each is loaded once, by the first that asks."""

    def __init__(self, shelf: EncoderShelf, *, max_batch: int, batch_wait_ms: float, lateness: "Callable[[], RefuseIfLate]") -> None:
        self._shelf = shelf
        self._max_batch = max_batch
        self._batch_wait_ms = batch_wait_ms
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
            shared = BatchedEncoder(cast("TokenEncoder", encoder), options=self._options(), lateness=self._lateness)
            self._joined_by_encoder[encoder] = shared
        return self._joined_by_encoder[encoder]

    def _taking_turns(self, matcher: "FusionMatcher | BlipMatcher | None") -> "FusionMatcher | BlipMatcher | None":
        """BLIP's calls wait for each other by themselves."""
        from sightline.encoders.batching import TakingTurns
        from sightline.encoders.matcher import FusionMatcher

        if not isinstance(matcher, FusionMatcher):
            return matcher
        if matcher not in self._joined_by_matcher:
            self._joined_by_matcher[matcher] = TakingTurns(matcher, lateness=self._lateness)
        return self._joined_by_matcher[matcher]

    def _options(self) -> "BatchOptions":
        from sightline.encoders.batching import BatchOptions

        return BatchOptions(max_batch=self._max_batch, wait_ms=self._batch_wait_ms)


def joining(sightline: Sightline, *, max_batch: int, batch_wait_ms: float, lateness: "Callable[[], RefuseIfLate]") -> Sightline:
    """The same open store, for the threads of a service. It is closed with the other."""
    shelf = JoiningShelf(sightline.encoders, max_batch=max_batch, batch_wait_ms=batch_wait_ms, lateness=lateness)
    return Sightline(sightline.store, encoders=shelf, settings=sightline.settings)
