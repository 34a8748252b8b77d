"""Why a picture was found: which of its patches spoke for which word of the query, as the fusion encoder sees it.

The relevance of a patch for a word is cross-attention times the gradient of the match logit; see `sightline.encoders.fusion_explanation`.
Patches are read from the store, so that a picture that is gone since is explained too; it cannot be drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from search.embed import combine
from search.engine import DEFAULT_RERANKING, Answer, Hit, Reranked, SearchEngine, Timings
from search.query import Query
from search.readers import evidence_of, reader_of_patches, shares_of
from search.rerank import Reranking
from search.second_look import SoughtPictures, SoughtWords, sought_of
from sightline.encoders.encoder import Encoder
from sightline.errors import CorruptSegment, EncoderUnavailable, InvalidQuery, PatchesNotFound
from sightline.locations import locate
from sightline.storage.records import CollectionRecord, ItemRecord
from sightline.storage.snapshot import Snapshot
from sightline.storage.store import Store
from sightline.types import Modality

if TYPE_CHECKING:  # they import torch
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

RANKED_ITEMS = 1000
"""As deep as an explained item is looked for in the ranking: finding its place among a million would mean ordering them all."""


@dataclass(frozen=True, slots=True)
class WordRelevance:
    """What one word of the query found in the picture."""

    text: str
    share: float  # of the relevance of all words; they sum to 1
    relevance: NDArray[np.float32]  # (rows, columns) of patches, non-negative, in units of the match logit


@dataclass(frozen=True, slots=True)
class MatchExplanation:
    """How words and a picture came to their match logit."""

    match_logit: float
    match_probability: float
    words: tuple[WordRelevance, ...]  # in the order of the query; words that the network did not read are not among them
    relevance: NDArray[np.float32]  # (rows, columns) for the whole query, what the marks around a text found included


@dataclass(frozen=True, slots=True)
class HitExplanation:
    """A hit and why it is one, or why that cannot be said."""

    hit: Hit
    match: MatchExplanation | None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class ItemExplanation:
    """One item of a collection and a query, stage by stage, whether the item was found or not."""

    query: str
    collection: str
    key: str
    location: str
    width: int | None  # pixels, after the turn that EXIF asks for
    height: int | None
    similarity: float  # cosine
    adjusted_similarity: float | None  # less what is taken off of its hubness bias; None where that is not done, or it was not found
    first_rank: int | None  # by similarity; None beyond the first `RANKED_ITEMS`
    rank: int | None  # after the second look
    num_candidates: int  # items that were ranked
    reranked: Reranked | None
    timings: Timings
    notes: tuple[str, ...]
    match: MatchExplanation


@dataclass(frozen=True, slots=True)
class ItemMatch:
    """One picture of a collection and words, whatever else there is."""

    item: ItemRecord
    similarity: float  # cosine
    match: MatchExplanation


def explain_words(sought: SoughtWords, encoder: "TokenEncoder", matcher: "FusionMatcher", patches: NDArray[np.float32]) -> MatchExplanation:
    """Why the words match a picture's `patches` (1, patches, width), or don't. Several texts are weighed as the ranking weighs them."""
    from sightline.encoders.tokens import words_of

    shares = shares_of(sought.weights)
    words: list[tuple[str, NDArray[np.float32]]] = []
    overall = np.zeros(matcher.grid, dtype=np.float32)
    logit = evidence = 0.0
    for text, share in zip(sought.texts, shares, strict=True):
        _, tokens = encoder.embed_texts_with_tokens([text])
        found = matcher.explain(tokens, patches)
        logit += float(share) * found.logit
        evidence += float(share * evidence_of(tokens.num_tokens)[0])
        overall += share * found.overall
        read = words_of(text, encoder.token_spans(text))
        words += [(word.text, share * np.sum([found.map_of(token) for token in word.tokens], axis=0)) for word in read]
    total = float(sum(relevance.sum() for _, relevance in words))
    relevances = tuple(WordRelevance(text, float(each.sum()) / total if total > 0 else 0.0, each) for text, each in words)
    probability = float(matcher.calibration.probabilities(np.array([logit], dtype=np.float32), evidence)[0])
    return MatchExplanation(logit, probability, relevances, overall)


class Explainer:
    """Explains hits, and items that may not be hits."""

    def __init__(
        self,
        store: Store,
        engine: SearchEngine,
        *,
        encoder_of: Callable[[CollectionRecord], Encoder],
        matcher_of: "Callable[[CollectionRecord], FusionMatcher | BlipMatcher | None]",
    ) -> None:
        self._store = store
        self._engine = engine
        self._encoder_of = encoder_of
        self._matcher_of = matcher_of

    def require(self, collection: str) -> None:
        """Raises `EncoderUnavailable` where no fusion encoder fits the collection, so that nothing in it can be explained."""
        self._networks(self._store.collection(collection))

    def explain_hits(self, answer: Answer) -> list[HitExplanation]:
        """Of every hit, in their order; a query that is not of words, and a hit that is no picture or whose patches are damaged, cannot be
        explained and says so.

        Raises `EncoderUnavailable` where no fusion encoder fits the collection.
        """
        record = self._store.collection(answer.collection)
        snapshot = self._store.snapshot_of(record)
        matcher, encoder = self._networks(record)
        sought = sought_of(answer.query, self._store, snapshot)
        explained = []
        for hit in answer:
            why_not, patches = _why_not(sought, hit.modality), None
            if why_not is None:
                try:
                    patches = _patches(snapshot, hit.item_id, matcher)
                except CorruptSegment as error:
                    why_not = str(error)
            if isinstance(sought, SoughtWords) and patches is not None:
                explained.append(HitExplanation(hit, explain_words(sought, encoder, matcher, patches)))
            else:
                explained.append(HitExplanation(hit, None, why_not or _no_patches(hit.key, record)))
        return explained

    def explain_item(self, query: Query, *, collection: str, key: str, reranking: Reranking | None = DEFAULT_RERANKING) -> ItemExplanation:
        """Of the picture that the collection calls `key`, with its ranks among the pictures.

        Raises `ItemNotFound`, `InvalidQuery` for a query that is not of words or an item that is no picture, `EncoderUnavailable` where no
        fusion encoder fits the collection and what `SearchEngine.search` raises; `PatchesNotFound` for a picture without patches.
        """
        record = self._store.collection(collection)
        item = self._store.item_by_key(record.collection_id, key)
        snapshot = self._store.snapshot_of(record)
        sought = _words_sought(query, self._store, snapshot, item=item)
        matcher, encoder = self._networks(record)
        stored = snapshot.patches(np.array([item.item_id], dtype=np.int64), fusion_fingerprint=matcher.fingerprint)
        among_pictures = Query(query.parts, modality=Modality.IMAGE, notes=query.notes)
        answer = self._engine.search(among_pictures, collection=collection, top_k=RANKED_ITEMS, reranking=reranking)
        hit = next((each for each in answer if each.item_id == item.item_id), None)
        return ItemExplanation(
            query=str(query),
            collection=collection,
            key=key,
            location=locate(item.source, item.key),
            width=item.width,
            height=item.height,
            similarity=self._similarity(query, snapshot, item, encoder) if hit is None else hit.similarity,
            adjusted_similarity=None if hit is None else hit.adjusted_similarity,
            first_rank=None if hit is None else hit.first_rank or hit.rank,
            rank=None if hit is None else hit.rank,
            num_candidates=len(answer),
            reranked=answer.reranked,
            timings=answer.timings,
            notes=answer.notes,
            match=explain_words(sought, encoder, matcher, stored.dequantised()),
        )

    def match_item(self, query: Query, *, collection: str, key: str) -> ItemMatch:
        """The match alone, without a place in any ranking: it costs a pass of each network, and no search.

        Raises as `explain_item`.
        """
        record = self._store.collection(collection)
        item = self._store.item_by_key(record.collection_id, key)
        snapshot = self._store.snapshot_of(record)
        sought = _words_sought(query, self._store, snapshot, item=item)
        matcher, encoder = self._networks(record)
        stored = snapshot.patches(np.array([item.item_id], dtype=np.int64), fusion_fingerprint=matcher.fingerprint)
        similarity = self._similarity(query, snapshot, item, encoder)
        return ItemMatch(item, similarity, explain_words(sought, encoder, matcher, stored.dequantised()))

    def _similarity(self, query: Query, snapshot: Snapshot, item: ItemRecord, encoder: Encoder) -> float:
        """Of an item that is not among the hits."""
        parts, _ = self._engine.embed(query, snapshot, encoder=encoder)
        return float(combine(parts)[0] @ snapshot.embeddings(np.array([item.item_id], dtype=np.int64))[0])

    def _networks(self, record: CollectionRecord) -> "tuple[FusionMatcher, TokenEncoder]":
        found = self._matcher_of(record)
        matcher = reader_of_patches(found)
        if matcher is None and found is not None:
            raise EncoderUnavailable(f"{found.name} reorders and does not explain; name a fusion encoder of `sightline train fusion`")
        if matcher is None:
            raise EncoderUnavailable(
                f"no fusion encoder comes with {record.encoder_name}, and it is what explains; train one (`sightline train fusion`) and "
                "name it with --fusion FOLDER"
            )
        return matcher, cast("TokenEncoder", self._encoder_of(record))


def _words_sought(query: Query, store: Store, snapshot: Snapshot, *, item: ItemRecord) -> SoughtWords:
    """Raises `InvalidQuery` where the item cannot be explained for that query."""
    sought = sought_of(query, store, snapshot)
    why_not = _why_not(sought, item.modality)
    if why_not is not None or not isinstance(sought, SoughtWords):
        raise InvalidQuery(f"{item.key} cannot be explained: {why_not}")
    return sought


def _why_not(sought: SoughtWords | SoughtPictures | None, modality: Modality) -> str | None:
    if not isinstance(sought, SoughtWords):
        return "words are what is explained, and the query is not of words alone"
    if modality is not Modality.IMAGE:
        return "it is a text, and words are looked for in pictures"
    return None


def _no_patches(key: str, record: CollectionRecord) -> str:
    return f"{key} has no patches for the second look; `sightline patches {record.name}` adds them"


def _patches(snapshot: Snapshot, item_id: int, matcher: "FusionMatcher") -> NDArray[np.float32] | None:
    """(1, patches, width); None where there are none. Raises `CorruptSegment` where they are damaged."""
    ids = np.array([item_id], dtype=np.int64)
    try:
        return snapshot.patches(ids, fusion_fingerprint=matcher.fingerprint).dequantised()
    except PatchesNotFound:
        return None
