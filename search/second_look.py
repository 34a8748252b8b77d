"""A second look at a query's candidates: what of the query a fusion encoder can read, who reads it, and what to say of it."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from search.embed import QueryPictures, QueryTexts, decoded_picture
from search.query import GivenEmbedding, LikeItem, Picture, Query, Words
from search.readers import (
    CandidateReader,
    EachOverPatches,
    PicturesOverTexts,
    PicturesOverTextsThemselves,
    WordsOverPatches,
    WordsOverPictures,
    keyed_picture,
    reader_of_patches,
)
from search.rerank import Reranking, SecondLook, rerank, second_look, to_read
from search.retrieve import RankedCandidate
from sightline.errors import CorruptSegment, InvalidQuery, PatchesNotFound
from sightline.storage.records import CollectionRecord
from sightline.storage.snapshot import PatchDamage, Snapshot
from sightline.storage.store import Store
from sightline.types import ItemId, Modality

if TYPE_CHECKING:  # they import torch, which a query without a second look can do without
    from sightline.encoders.blip_matcher import BlipMatcher, KeyedPicture
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

BY_SIMILARITY = "the order is by similarity"


@dataclass(frozen=True, slots=True)
class SoughtWords:
    """What a query looks for, where that is words alone."""

    texts: tuple[str, ...]
    weights: tuple[float, ...]

    @property
    def reads(self) -> Modality:
        """Of the candidates that it can be read against."""
        return Modality.IMAGE


@dataclass(frozen=True, slots=True)
class SoughtPictures:
    """What a query looks for, where that is pictures alone."""

    pictures: tuple[Picture | ItemId, ...]  # files, and items of the collection
    weights: tuple[float, ...]

    @property
    def reads(self) -> Modality:
        """Of the candidates that it can be read against."""
        return Modality.TEXT


_AS_LONG = 1.25
"""As the encoder took for a picture, a second backbone takes for it, with the picture's prior."""


@dataclass(frozen=True, slots=True)
class SecondLooker:
    """Looks at candidates of queries again, with one fusion encoder."""

    store: Store
    encoder: "TokenEncoder"
    matcher: "FusionMatcher | BlipMatcher"
    texts: QueryTexts  # of what is asked
    pictures: QueryPictures  # likewise
    max_pixels: int

    def has_something_to_read(self, query: Query, snapshot: Snapshot) -> bool:
        """False where there cannot be a second look, as in a collection without patches: what prepares one can then be left out.

        A picture's file is read against texts whether other pictures have patches or not.
        """
        matcher = reader_of_patches(self.matcher)
        is_asked_by_file = any(isinstance(part, Picture) for part in query.parts)
        return matcher is None or is_asked_by_file or snapshot.has_patches_of(matcher.fingerprint)

    def reads_by_pictures(self, query: Query, snapshot: Snapshot) -> bool:
        """Whether the query's pictures will be read against texts by what the encoder tells of their patches."""
        parts = [part for part in query.parts if isinstance(part, Picture)]
        is_of_others = any(isinstance(part, Words | GivenEmbedding) for part in query.parts)
        may_find_texts = query.modality is not Modality.IMAGE and Modality.TEXT in snapshot.modalities()
        return bool(parts) and not is_of_others and may_find_texts and reader_of_patches(self.matcher) is not None

    def load_for(self, query: Query, snapshot: Snapshot) -> None:
        """Brings into memory what reads the query and the texts: no part of the look's time, as loading the encoder is none of a search's.

        An item that is asked by has an embedding, so that the search needs no encoder, and the look does. Raises `ItemNotFound`.
        """
        matcher, sought = reader_of_patches(self.matcher), sought_of(query, self.store, snapshot)
        if matcher is None or sought is None or query.modality not in (None, sought.reads) or sought.reads not in snapshot.modalities():
            return
        if self.has_something_to_read(query, snapshot):
            self.encoder.load(Modality.TEXT)
        if self.reads_by_pictures(query, snapshot):
            matcher.load_second_backbone()

    def look(
        self, query: Query, candidates: Sequence[RankedCandidate], snapshot: Snapshot, reranking: Reranking
    ) -> tuple[SecondLook | None, tuple[str, ...]]:
        """The candidates in their final order, and notes; None where nothing can be read, with a note where that is not plain.

        Damaged patches are a note too, since the similarities are whole, and cost the candidates that they are of their second look alone.
        Raises `UnreadableImage`, `ItemNotFound`, and `InvalidQuery` where nothing can be read and a least match probability is wanted.
        """
        try:
            return self._look(query, candidates, snapshot, reranking)
        except CorruptSegment as error:
            return _no_look(_damaged(error), reranking)

    def look_at_each(
        self, queries: Sequence[Query], candidates_by_query: Sequence[Sequence[RankedCandidate]], snapshot: Snapshot, reranking: Reranking
    ) -> list[tuple[SecondLook | None, tuple[str, ...]]]:
        """What `look` gives for each of the queries; those of one text each are read in common passes where no deadline is set."""
        matcher = reader_of_patches(self.matcher)
        pairs = list(zip(queries, candidates_by_query, strict=True))
        together = {} if matcher is None or reranking.deadline_ms is not None else self._read_in_one(pairs, snapshot)
        if matcher is None or len(together) < 2:
            return [self.look(query, candidates, snapshot, reranking) for query, candidates in pairs]
        reader = EachOverPatches(snapshot, matcher, self.texts.tokens_of(list(together.values())))
        ids_by_text = [to_read(candidates_by_query[number], reader.modality, reranking) for number in together]
        readings_by_text = reader.read([reader.readable(ids) for ids in ids_by_text])
        looks: dict[int, tuple[SecondLook | None, tuple[str, ...]]] = {}
        for number, ids, readings in zip(together, ids_by_text, readings_by_text, strict=True):
            second = second_look(
                candidates_by_query[number],
                readings,
                num_to_read=len(ids),
                num_unreadable=len(ids) - len(readings),
                weight=self._weight_of(reader.modality),
                calibration=matcher.calibration,
                min_match=reranking.min_match,
            )
            looks[number] = self._told(second, ids, lacks=WordsOverPatches.lacks, snapshot=snapshot, reranking=reranking)
        return [looks.get(number) or self.look(*pair, snapshot, reranking) for number, pair in enumerate(pairs)]

    def _read_in_one(self, pairs: Sequence[tuple[Query, Sequence[RankedCandidate]]], snapshot: Snapshot) -> dict[int, str]:
        """The one text that each query looks for, by the number of those that look for one and have a candidate to be read."""
        found = {}
        for number, (query, candidates) in enumerate(pairs):
            sought = sought_of(query, self.store, snapshot)
            if not isinstance(sought, SoughtWords) or len(sought.texts) != 1 or not self.has_something_to_read(query, snapshot):
                continue
            if any(each.modality is sought.reads for each in candidates):
                found[number] = sought.texts[0]
        return found

    def _look(
        self, query: Query, candidates: Sequence[RankedCandidate], snapshot: Snapshot, reranking: Reranking
    ) -> tuple[SecondLook | None, tuple[str, ...]]:
        """The same as `look`, raising `CorruptSegment` where the patches of a picture that is asked by are damaged."""
        began = time.perf_counter()
        sought = sought_of(query, self.store, snapshot)
        if sought is None or all(each.modality is not sought.reads for each in candidates):
            sentence = _why_not(sought, query, reranking) if candidates else None
            return (None, ()) if sentence is None else _no_look(sentence, reranking)
        if isinstance(sought, SoughtWords) and not self.has_something_to_read(query, snapshot):
            return _no_look(self._no_candidate(snapshot), reranking)
        reader = self._reader(sought, snapshot)
        if reader is None:
            return _no_look(self._no_patches("the picture of the query has no", snapshot), reranking)
        weight = self._weight_of(reader.modality)
        calibration = self.matcher.calibration
        second = rerank(candidates, reader, weight=weight, calibration=calibration, reranking=reranking, began=began)
        ids = to_read(candidates, reader.modality, reranking)
        return self._told(second, ids, lacks=reader.lacks, snapshot=snapshot, reranking=reranking)

    def _told(
        self, second: SecondLook, ids: Sequence[ItemId], *, lacks: str, snapshot: Snapshot, reranking: Reranking
    ) -> tuple[SecondLook | None, tuple[str, ...]]:
        """The look at `ids` with its notes; none where no candidate could be read, for want of patches."""
        matcher, damage = reader_of_patches(self.matcher), None
        if matcher is not None and second.num_unreadable:
            damage = snapshot.patch_damage(np.asarray(ids, dtype=np.int64), fusion_fingerprint=matcher.fingerprint)
        if matcher is not None and second.num_unreadable == second.num_to_read:
            return _no_look(self._no_candidate(snapshot) if damage is None else _damaged(damage.first), reranking)
        return second, notes_of(second, lacks=lacks, damage=damage, min_match=reranking.min_match)

    def _no_candidate(self, snapshot: Snapshot) -> str:
        return self._no_patches(f"no candidate in collection {snapshot.collection.name} has", snapshot)

    def _no_patches(self, sentence: str, snapshot: Snapshot) -> str:
        """What to do, which is something else where there are patches that another fusion encoder reads."""
        others = {each.fusion_fingerprint for each in snapshot.patch_formats()} - {self.matcher.fingerprint}
        name = snapshot.collection.name
        if not others:
            remedy = f"`sightline patches {name}` adds them, with the --fusion of the search where it has one"
            return f"{sentence} patches for the second look; {remedy}"
        own, of_others = self.matcher.fingerprint[:12], ", ".join(sorted(each[:12] for each in others))
        return (
            f"{sentence} patches of the fusion encoder {own} for the second look, and there are some of {of_others}: name that one with "
            f"--fusion, or let `sightline patches {name}` put others in their place, with the --fusion of the search where it has one"
        )

    def _weight_of(self, candidates: Modality) -> float:
        """What a match logit counts beside the similarity of candidates of that modality."""
        combination = self.matcher.combination
        return combination.text_to_image if candidates is Modality.IMAGE else combination.image_to_text

    def _reader(self, sought: SoughtWords | SoughtPictures, snapshot: Snapshot) -> CandidateReader | None:
        """None where the query is an item without patches."""
        by_patches = reader_of_patches(self.matcher)
        if by_patches is not None:
            return self._reader_of_patches(by_patches, sought, snapshot)
        by_pictures = cast("BlipMatcher", self.matcher)
        record = snapshot.collection
        match sought:
            case SoughtWords(texts, weights):
                return WordsOverPictures(self.store, record, by_pictures, texts, weights=weights, max_pixels=self.max_pixels)
            case SoughtPictures(pictures, weights):
                keyed = [self._keyed(picture, record) for picture in pictures]
                return PicturesOverTextsThemselves(self.store, record, by_pictures, keyed, weights=weights)

    def _reader_of_patches(
        self, matcher: "FusionMatcher", sought: SoughtWords | SoughtPictures, snapshot: Snapshot
    ) -> CandidateReader | None:
        match sought:
            case SoughtWords(texts, weights):
                return WordsOverPatches(snapshot, matcher, self.texts.tokens_of(texts), weights=weights)
            case SoughtPictures(pictures, weights):
                patches = [self._patches_of(picture, matcher, snapshot) for picture in pictures]
                known = [each for each in patches if each is not None]
                if len(known) < len(patches):
                    return None
                num_to_project = sum(isinstance(picture, Picture) for picture in pictures)
                preparing_s = _AS_LONG * num_to_project * self.pictures.picture_s if matcher.has_second_backbone else 0.0
                return PicturesOverTexts(
                    self.store, snapshot.collection, self.encoder, matcher, known, weights=weights, preparing_s=preparing_s
                )

    def _patches_of(
        self, picture: Picture | ItemId, matcher: "FusionMatcher", snapshot: Snapshot
    ) -> Callable[[], NDArray[np.float32]] | None:
        """What gives the (1, patches, width); None for an item that has none. Raises `CorruptSegment` where they are damaged."""
        if isinstance(picture, Picture):
            return lambda: matcher.project(self.pictures.tokens_of(picture))
        ids = np.array([picture], dtype=np.int64)
        try:
            stored = snapshot.patches(ids, fusion_fingerprint=matcher.fingerprint).dequantised()
        except PatchesNotFound:
            return None
        return lambda: stored

    def _keyed(self, picture: Picture | ItemId, record: CollectionRecord) -> "KeyedPicture":
        """A picture of the query as one that is kept by its content. Raises `UnreadableImage`."""
        from sightline.encoders.blip_matcher import KeyedPicture

        if not isinstance(picture, Picture):
            return keyed_picture(self.store.items(record.collection_id, [picture])[picture], max_pixels=self.max_pixels)
        image = decoded_picture(picture, max_pixels=self.max_pixels, target_side=None)
        return KeyedPicture(hashlib.sha256(image.tobytes()).hexdigest(), lambda: image)


def sought_of(query: Query, store: Store, snapshot: Snapshot) -> SoughtWords | SoughtPictures | None:
    """The parts that the query looks for, items by what they are; None where they are words and pictures mixed, or a bare embedding.

    What it looks away from is no part of it, and makes it unreadable only where that is a picture: nothing reads "like this, but without
    that picture". Raises `ItemNotFound`.
    """
    words: list[tuple[str, float]] = []
    pictures: list[tuple[Picture | ItemId, float]] = []
    for part in query.parts:
        match part:
            case Words():
                words.append((part.text, part.weight))
            case Picture():
                pictures.append((part, part.weight))
            case GivenEmbedding():
                return None
            case LikeItem():
                item = store.item_by_key(snapshot.collection.collection_id, part.key)
                if item.modality is Modality.TEXT:
                    words.append((item.text or "", part.weight))
                else:
                    pictures.append((item.item_id, part.weight))
    if words and pictures:
        return None
    if words:
        texts, weights = zip(*[each for each in words if each[1] > 0], strict=True)
        return SoughtWords(texts, weights)
    found, weights = zip(*[each for each in pictures if each[1] > 0], strict=True)
    return SoughtPictures(found, weights)


def _why_not(sought: SoughtWords | SoughtPictures | None, query: Query, reranking: Reranking) -> str | None:
    """The sentence that says why there is no second look; None where nobody would wonder, as at pictures that are like a picture."""
    wants_match = reranking.min_match is not None
    match sought:
        case None if any(isinstance(part, GivenEmbedding) for part in query.parts):
            return f"the second look reads words or pictures, and no embeddings; {BY_SIMILARITY}" if wants_match else None
        case None:
            return f"the second look reads words or pictures, not both at once; {BY_SIMILARITY}"
        case SoughtWords():
            return f"the second look reads words against pictures, and these are texts; {BY_SIMILARITY}"
        case SoughtPictures():
            return f"the second look reads pictures against words, and these are pictures; {BY_SIMILARITY}" if wants_match else None


def _no_look(sentence: str, reranking: Reranking) -> tuple[None, tuple[str, ...]]:
    """No look, with the note that says why. Raises `InvalidQuery` where hits are to be left out for what nobody knows of them."""
    if reranking.min_match is not None:
        raise no_match_known(sentence)
    return None, (sentence,)


def no_match_known(sentence: str) -> InvalidQuery:
    """The error for who wants a least match probability where nothing has one; `sentence` says why."""
    why = sentence.removesuffix(f"; {BY_SIMILARITY}")
    return InvalidQuery(f"min_match leaves hits out by their match probability, and none is known here: {why}")


def _damaged(damage: CorruptSegment) -> str:
    return f"there was no second look: {damage}; {BY_SIMILARITY}"


def notes_of(second: SecondLook, *, lacks: str, damage: PatchDamage | None, min_match: float | None) -> tuple[str, ...]:
    """What an answer says of a look that was not taken at all that there was, or left nothing; `lacks` of those that cannot be read."""
    notes = []
    fate = "keep their place" if min_match is None else "are left out, since how well they match is not known"
    num_late = second.num_to_read - second.num_read - second.num_unreadable
    if num_late > 0:
        read = f"{second.num_read} of {second.num_to_read} candidates"
        notes.append(f"the second look read {read} by its deadline; the others {fate}")
    num_damaged = 0 if damage is None else damage.num_items
    if damage is not None:
        notes.append(f"{num_damaged} of {second.num_to_read} candidates could not be read and {fate}: {damage.first}")
    if second.num_unreadable > num_damaged:
        notes.append(f"{second.num_unreadable - num_damaged} of {second.num_to_read} candidates {lacks} and {fate}")
    if min_match is not None and not second.candidates and second.num_read:
        what = "nothing here" if second.num_read == second.num_to_read else "nothing that was read"
        notes.append(f"{what} matches with a probability of {min_match:.10g} or more")
    return tuple(notes)
