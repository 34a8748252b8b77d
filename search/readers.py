"""Who reads candidates again: a fusion encoder with one query in hand, asked for the match logits of items.

A fusion encoder reads words against a picture, so that there are two readers: of pictures, for a query of words, and of texts, for a query
of pictures. Between two things of one modality there is nothing for it to read.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.storage.records import CollectionRecord
from sightline.storage.snapshot import Snapshot
from sightline.storage.store import Store
from sightline.types import ItemId, Modality

if TYPE_CHECKING:  # they import torch, which a query without a second look can do without
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TextTokens, TokenEncoder


class CandidateReader(Protocol):
    """One query, to be read against candidates."""

    @property
    def modality(self) -> Modality:
        """Of the candidates that it reads."""

    @property
    def items_at_once(self) -> int:
        """Candidates between two looks at the clock."""

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """Those of the items that there is something to read of, in their order."""

    def match_logits(self, item_ids: Sequence[ItemId]) -> dict[ItemId, float]:
        """Match logits of readable items; without those that turn out to be gone."""


class WordsOverPatches:
    """Words against stored patches. Cost: 12.6 kB a candidate from memory maps, and a pass of the fusion encoder."""

    modality = Modality.IMAGE
    items_at_once = 32  # some 10 ms on two cores

    def __init__(self, snapshot: Snapshot, matcher: "FusionMatcher", texts: "TextTokens", *, weights: Sequence[float]) -> None:
        self._snapshot = snapshot
        self._matcher = matcher
        self._texts = texts  # of the words that are looked for
        self._shares = shares_of(weights)  # (texts,)

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """Those with patches of this fusion encoder. Raises `CorruptSegment` where patches are damaged."""
        if not item_ids:
            return []
        has_patches = self._snapshot.has_patches(np.asarray(item_ids, dtype=np.int64), fusion_fingerprint=self._matcher.fingerprint)
        return [item_id for item_id, has_some in zip(item_ids, has_patches, strict=True) if has_some]

    def match_logits(self, item_ids: Sequence[ItemId]) -> dict[ItemId, float]:
        """The mean over the words that are looked for, by their weights."""
        stored = self._snapshot.patches(np.asarray(item_ids, dtype=np.int64), fusion_fingerprint=self._matcher.fingerprint)
        logits = self._shares @ self._matcher.match_logits(self._texts, stored.dequantised())  # (items,)
        return dict(zip(item_ids, logits.tolist(), strict=True))


class PicturesOverTexts:
    """Pictures against texts, whose tokens are computed now: one pass of the text encoder and one of the fusion encoder."""

    modality = Modality.TEXT
    items_at_once = 16

    def __init__(
        self,
        store: Store,
        record: CollectionRecord,
        encoder: "TokenEncoder",
        matcher: "FusionMatcher",
        patches: NDArray[np.float32],
        *,
        weights: Sequence[float],
    ) -> None:
        self._store = store
        self._record = record
        self._encoder = encoder
        self._matcher = matcher
        self._patches = patches  # (pictures, patches, width), of the pictures that are looked for
        self._shares = shares_of(weights)  # (pictures,)

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """All of them."""
        return list(item_ids)

    def match_logits(self, item_ids: Sequence[ItemId]) -> dict[ItemId, float]:
        """The mean over the pictures that are looked for, by their weights."""
        items = self._store.items(self._record.collection_id, item_ids)
        found = [item_id for item_id in item_ids if item_id in items]  # what was deleted since the snapshot is gone
        if not found:
            return {}
        _, texts = self._encoder.embed_texts_with_tokens([items[item_id].text or "" for item_id in found])
        logits = self._matcher.match_logits(texts, self._patches) @ self._shares  # (texts,)
        return dict(zip(found, logits.tolist(), strict=True))


def shares_of(weights: Sequence[float]) -> NDArray[np.float32]:
    """What each part counts, summing to 1."""
    return np.asarray(weights, dtype=np.float32) / np.float32(sum(weights))
