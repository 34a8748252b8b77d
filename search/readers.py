"""Who reads candidates again: a fusion encoder with one query in hand, asked for the match logits of items.

A fusion encoder reads words against a picture, so that there are two kinds of readers: of pictures, for a query of words, and of texts, for
a query of pictures. There is one of each for our own, which reads stored patches, and for pretrained ones, which read the pictures
themselves. Between two things of one modality there is nothing to read.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.encoders.image_input import decode_image
from sightline.errors import UnreadableImage
from sightline.locations import locate, picture_at
from sightline.storage.records import CollectionRecord, ItemRecord
from sightline.storage.snapshot import Snapshot
from sightline.storage.store import Store
from sightline.types import ItemId, Modality

if TYPE_CHECKING:  # they import torch, which a query without a second look can do without
    from sightline.encoders.blip_matcher import BlipMatcher, KeyedPicture
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TextTokens, TokenEncoder

logger = logging.getLogger(__name__)

TEXTS_IN_A_PASS = 4
"""With candidates of their own. One core took 8.3 ms of processor time for a text and 64 candidates, 7.5 where two texts shared a pass, 5.4
where four did, and no less from there."""

_ITEMS_OF_A_TEXT = 64
"""In such a pass; more together fall out of the caches."""


class CandidateReader(Protocol):
    """One query, to be read against candidates."""

    @property
    def modality(self) -> Modality:
        """Of the candidates that it reads."""

    @property
    def items_in_first_pass(self) -> int:
        """Candidates that are read first where there is a deadline, to see how long one takes."""

    @property
    def items_in_a_pass(self) -> int:
        """Candidates that are read together where there is time for them."""

    @property
    def lacks(self) -> str:
        """What is said of candidates that it cannot read: they ..."""

    @property
    def preparing_s(self) -> float:
        """Seconds that `prepare` takes, as far as is known before."""

    def prepare(self) -> None:
        """What is to be computed of the query itself, once and before anything is read."""

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """Those of the items that there is something to read of, in their order."""

    def read(self, item_ids: Sequence[ItemId]) -> "dict[ItemId, Reading]":
        """What is said of readable items; without those that turn out to be gone."""


class Reading(NamedTuple):
    """What a fusion encoder says of one candidate."""

    match_logit: float
    evidence: float = 1.0  # of the text, in (0, 1]: what its probability is read by
    share_of_weight: float | None = None  # that the logit gets in the order; None: the evidence

    @property
    def weighed_logit(self) -> float:
        """What the weight of the direction is multiplied by."""
        return self.match_logit * (self.evidence if self.share_of_weight is None else self.share_of_weight)


class _NothingToPrepare:
    """For readers whose every pass takes what it takes."""

    preparing_s = 0.0

    def prepare(self) -> None:
        """Nothing."""


class WordsOverPatches:
    """Words against stored patches. Cost: 13.7 kB a candidate from memory maps, and a pass of the fusion encoder.

    A candidate whose prior is not stored with its patches, as in segments older than priors, costs ten times that.
    """

    modality = Modality.IMAGE
    items_in_first_pass = 16  # 2.5 ms on two cores; 4 take 1.9
    items_in_a_pass = 128  # the fewer passes, the better
    lacks = "have no patches"
    preparing_s = 0.0  # some milliseconds

    def __init__(self, snapshot: Snapshot, matcher: "FusionMatcher", texts: "TextTokens", *, weights: Sequence[float]) -> None:
        self._snapshot = snapshot
        self._matcher = matcher
        self._texts = texts  # of the words that are looked for
        self._shares = shares_of(weights)  # (texts,)
        self._evidence = float(self._shares @ evidence_of(texts.num_tokens))
        self._text_priors: NDArray[np.float32] | None = None  # (texts,), of use to every pass

    def prepare(self) -> None:
        """The texts' priors."""
        self._text_priors = self._matcher.text_priors(self._texts)

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """Those with patches of this fusion encoder, undamaged as far as is known."""
        return with_patches(item_ids, self._snapshot, self._matcher)

    def read(self, item_ids: Sequence[ItemId]) -> dict[ItemId, Reading]:
        """The mean over the words that are looked for, by their weights."""
        stored = self._snapshot.patches(np.asarray(item_ids, dtype=np.int64), fusion_fingerprint=self._matcher.fingerprint)
        logits = self._matcher.match_logits(
            self._texts, stored.dequantised(), image_priors=stored.priors, text_priors=self._text_priors
        )  # (texts, items)
        return {item_id: Reading(logit, self._evidence) for item_id, logit in zip(item_ids, (self._shares @ logits).tolist(), strict=True)}


class EachOverPatches:
    """Texts over stored patches, each over candidates of its own, in passes that several texts share. Costs less than one by one."""

    modality = Modality.IMAGE

    def __init__(self, snapshot: Snapshot, matcher: "FusionMatcher", texts: "TextTokens") -> None:
        self._snapshot = snapshot
        self._matcher = matcher
        self._texts = texts  # one a query
        self._text_priors = matcher.text_priors(texts)  # (texts,)

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """See `WordsOverPatches`."""
        return with_patches(item_ids, self._snapshot, self._matcher)

    def read(self, ids_by_text: Sequence[Sequence[ItemId]]) -> "list[dict[ItemId, Reading]]":
        """What is said of readable items, for each text of its own."""
        readings: list[dict[ItemId, Reading]] = [{} for _ in ids_by_text]
        longest = max(map(len, ids_by_text), default=0)
        for first in range(0, len(ids_by_text), TEXTS_IN_A_PASS):
            texts = range(first, min(first + TEXTS_IN_A_PASS, len(ids_by_text)))
            for start in range(0, longest, _ITEMS_OF_A_TEXT):
                ids_by_row = {text: ids_by_text[text][start : start + _ITEMS_OF_A_TEXT] for text in texts}
                asked = {text: ids for text, ids in ids_by_row.items() if ids}
                if asked:
                    for text, found in zip(asked, self._read_block(asked), strict=True):
                        readings[text] |= found
        return readings

    def _read_block(self, ids_by_text: Mapping[int, Sequence[ItemId]]) -> "list[dict[ItemId, Reading]]":
        """One pass: those that have fewer candidates than others have their first one read again for each that they lack."""
        rows = np.array(list(ids_by_text))
        longest = max(map(len, ids_by_text.values()))
        padded = np.array([[*ids, *[ids[0]] * (longest - len(ids))] for ids in ids_by_text.values()], dtype=np.int64)  # (texts, items)
        stored = self._snapshot.patches(padded.reshape(-1), fusion_fingerprint=self._matcher.fingerprint)
        texts = self._texts.at(rows)
        patches = stored.dequantised()
        logits = self._matcher.match_logits_each(
            texts,
            patches.reshape(*padded.shape, *patches.shape[1:]),
            image_priors=stored.priors.reshape(padded.shape),
            text_priors=self._text_priors[rows],
        )  # (texts, items)
        shares = evidence_of(texts.num_tokens).tolist()
        return [
            {item_id: Reading(logit, share) for item_id, logit in zip(ids, its_logits, strict=False)}
            for ids, its_logits, share in zip(ids_by_text.values(), logits.tolist(), shares, strict=True)
        ]


class PicturesOverTexts:
    """Pictures against texts, whose tokens are computed now: one pass of the text encoder and one of the fusion encoder.

    A picture that is no item has its patches computed when it is prepared, by a network of the fusion encoder's own where it has one.
    """

    modality = Modality.TEXT
    items_in_first_pass = 4
    items_in_a_pass = 64
    lacks = "are not there any more"

    def __init__(
        self,
        store: Store,
        record: CollectionRecord,
        encoder: "TokenEncoder",
        matcher: "FusionMatcher",
        patches_of_each: Sequence[Callable[[], NDArray[np.float32]]],
        *,
        weights: Sequence[float],
        preparing_s: float,
    ) -> None:
        """`patches_of_each` gives the (1, patches, width) of each of the pictures that are looked for."""
        self.preparing_s = preparing_s
        self._store = store
        self._record = record
        self._encoder = encoder
        self._matcher = matcher
        self._patches_of_each = patches_of_each
        self._patches = np.empty((0, 0, 0), dtype=np.float32)  # (pictures, patches, width)
        self._image_priors = np.empty(0, dtype=np.float32)  # (pictures,), of use to every pass
        self._shares = shares_of(weights)  # (pictures,)

    def prepare(self) -> None:
        """The pictures' patches and priors."""
        self._patches = np.concatenate([patches() for patches in self._patches_of_each])
        self._image_priors = self._matcher.image_priors(self._patches)

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """All of them."""
        return list(item_ids)

    def read(self, item_ids: Sequence[ItemId]) -> dict[ItemId, Reading]:
        """The mean over the pictures that are looked for, by their weights."""
        text_by_id = living_texts(self._store, self._record, item_ids)
        if not text_by_id:
            return {}
        _, texts = self._encoder.embed_texts_with_tokens(list(text_by_id.values()))
        logits = self._matcher.match_logits(texts, self._patches, image_priors=self._image_priors) @ self._shares  # (texts,)
        shares = self._matcher.combination.shares_among_texts(texts.num_tokens)
        readings = map(Reading, logits.tolist(), evidence_of(texts.num_tokens).tolist(), shares.tolist())
        return dict(zip(text_by_id, readings, strict=True))


class WordsOverPictures(_NothingToPrepare):
    """Words against the pictures themselves. Cost: decoding and the network's image encoder for each picture that it has not met lately."""

    modality = Modality.IMAGE
    lacks = "cannot be read any more"

    def __init__(
        self,
        store: Store,
        record: CollectionRecord,
        matcher: "BlipMatcher",
        texts: Sequence[str],
        *,
        weights: Sequence[float],
        max_pixels: int,
    ) -> None:
        self._store = store
        self._record = record
        self._matcher = matcher
        self._texts = texts
        self._shares = shares_of(weights)  # (texts,)
        self._max_pixels = max_pixels
        self.items_in_first_pass, self.items_in_a_pass = 1, matcher.pictures_at_once

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """All of them: whether a picture is still there is seen when it is opened."""
        return list(item_ids)

    def read(self, item_ids: Sequence[ItemId]) -> dict[ItemId, Reading]:
        """The mean over the words that are looked for, by their weights; without pictures that cannot be opened."""
        items = self._store.items(self._record.collection_id, item_ids)
        found: dict[ItemId, Reading] = {}
        remaining = [items[item_id] for item_id in item_ids if item_id in items]
        while remaining:
            pictures = [keyed_picture(item, max_pixels=self._max_pixels) for item in remaining]
            try:
                logits = self._shares @ self._matcher.match_logits(self._texts, pictures)  # (remaining,)
            except UnreadableImage as error:
                logger.warning("left out of the second look: %s", error)
                remaining = [item for item in remaining if locate(item.source, item.key) != error.name]
                continue
            found = {item.item_id: Reading(logit) for item, logit in zip(remaining, logits.tolist(), strict=True)}
            break
        return found


class PicturesOverTextsThemselves(_NothingToPrepare):
    """Pictures against texts, by a network that reads both itself."""

    modality = Modality.TEXT
    items_in_first_pass, items_in_a_pass = 1, 8
    lacks = "are not there any more"

    def __init__(
        self,
        store: Store,
        record: CollectionRecord,
        matcher: "BlipMatcher",
        pictures: "Sequence[KeyedPicture]",
        *,
        weights: Sequence[float],
    ) -> None:
        self._store = store
        self._record = record
        self._matcher = matcher
        self._pictures = pictures
        self._shares = shares_of(weights)  # (pictures,)

    def readable(self, item_ids: Sequence[ItemId]) -> list[ItemId]:
        """All of them."""
        return list(item_ids)

    def read(self, item_ids: Sequence[ItemId]) -> dict[ItemId, Reading]:
        """The mean over the pictures that are looked for, by their weights. Raises `UnreadableImage` for one that cannot be opened."""
        text_by_id = living_texts(self._store, self._record, item_ids)
        logits = self._matcher.match_logits(list(text_by_id.values()), self._pictures) @ self._shares  # (texts,)
        return dict(zip(text_by_id, map(Reading, logits.tolist()), strict=True))


def with_patches(item_ids: Sequence[ItemId], snapshot: Snapshot, matcher: "FusionMatcher") -> list[ItemId]:
    """Those of the items whose patches are this fusion encoder's, in their order, without those that damage keeps from being read."""
    if not item_ids:
        return []
    has_patches = snapshot.has_patches(np.asarray(item_ids, dtype=np.int64), fusion_fingerprint=matcher.fingerprint)
    return [item_id for item_id, has_some in zip(item_ids, has_patches, strict=True) if has_some]


def living_texts(store: Store, record: CollectionRecord, item_ids: Sequence[ItemId]) -> dict[ItemId, str]:
    """Texts of items in their order, without those that were deleted since the snapshot."""
    items = store.items(record.collection_id, item_ids)
    return {item_id: items[item_id].text or "" for item_id in item_ids if item_id in items}


def keyed_picture(item: ItemRecord, *, max_pixels: int) -> "KeyedPicture":
    """The picture of an item, by its content; opening it raises `UnreadableImage` by its location."""
    from sightline.encoders.blip_matcher import KeyedPicture

    location = locate(item.source, item.key)
    return KeyedPicture(item.content_hash, lambda: opened_picture(location, max_pixels=max_pixels))


def opened_picture(location: str, *, max_pixels: int) -> Image.Image:
    """In RGB and upright. Raises `UnreadableImage` by the location as it was given, by which the caller knows which picture it was."""
    try:
        return decode_image(picture_at(Path(location)), name=location, max_pixels=max_pixels, target_side=None).image
    except UnreadableImage as error:
        raise UnreadableImage(location, reason=error.reason) from error


def reader_of_patches(matcher: "FusionMatcher | BlipMatcher | None") -> "FusionMatcher | None":
    """The matcher where it reads stored patches; None where it reads pictures, or is none."""
    if matcher is None:
        return None
    from sightline.encoders.matcher import FusionMatcher

    return matcher if isinstance(matcher, FusionMatcher) else None


def evidence_of(num_tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """See `sightline.encoders.matcher.evidence`, which is not imported before a fusion encoder is."""
    from sightline.encoders.matcher import evidence

    return evidence(num_tokens)


def shares_of(weights: Sequence[float]) -> NDArray[np.float32]:
    """What each part counts, summing to 1."""
    return np.asarray(weights, dtype=np.float32) / np.float32(sum(weights))
