"""Giving a collection a bank of queries, and finding how much of the bias that it yields is worth taking off.

Captions judge: those of pictures that gave the bank none of theirs are asked, and the strength is the one that puts their own pictures
highest, 0 where none helps. Where no picture has a caption nothing can be measured, and half of the bias is taken off.
"""

import hashlib
import heapq
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.banks import stored_bank
from indexer.sources import BrokenInput, SourceItem, SourceKind, open_source
from indexer.tuning import tuning_queries
from indexer.wording import counted
from sightline.encoders.encoder import Encoder
from sightline.encoders.query_bank import (
    DEFAULT_STRENGTH,
    FACTOR_OF_TEXTS,
    FittedStrength,
    QueryBank,
    compressed_bank,
    fit_strength,
)
from sightline.errors import InvalidInput, InvalidSource
from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store
from sightline.types import Embeddings, ItemId, Modality

logger = logging.getLogger(__name__)

NUM_CENTROIDS = 1024
"""1 MB at 512 dimensions. 256 to 4,096 centroids of 20,000 captions gave the same hit rate@1 on Flickr8k, within 0.4 points."""

MAX_QUERIES = 20_000
"""Of a file or of captions, evenly drawn: embedding more takes minutes, and what was measured was measured with so many."""

MAX_PICTURES = 10_000
"""That are looked at for captions; with `MAX_VALIDATION_QUERIES` it bounds the matrix of similarities to 80 MB."""

MAX_VALIDATION_QUERIES = 2_000
MIN_VALIDATION_QUERIES = 50
"""Fewer captions decide nothing: one of 50 is two points of hit rate@1."""

_ITEMS_AT_ONCE = 10_000  # records read by one query
_TEXTS_AT_ONCE = 1024

Advanced = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much of it is done."""


class OwnQueries(StrEnum):
    """Queries for a bank that need no file."""

    CAPTIONS = "captions"  # of the collection's pictures
    ENCODER = "encoder"  # the banks that the collection's encoder brings


@dataclass(frozen=True, slots=True)
class AppliedBank:
    """What became of the items of one modality."""

    modality: Modality
    origin: str  # where the queries are from
    num_queries: int  # in the bank: queries or their centroids
    strength: float  # how much of the bias a search takes off now
    fitted: FittedStrength | None  # None where there was nothing to measure with
    num_items: int


@dataclass(frozen=True, slots=True)
class HubnessReport:
    """What was done to a collection."""

    collection: str
    banks: tuple[AppliedBank, ...]
    num_unreadable: int  # lines of the file that are no query


@dataclass(frozen=True, slots=True)
class _Picture:
    item_id: ItemId
    captions: tuple[str, ...]
    is_held_out: bool  # its captions are asked, and not in the bank


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A bank that may be applied."""

    modality: Modality
    bank: QueryBank
    origin: str


def correct_hubness(
    store: Store, record: CollectionRecord, queries: Path | OwnQueries, encoder: Encoder, *, advanced: Advanced
) -> HubnessReport:
    """Bias the collection's items by a bank of `queries`; a file is read as a source of texts is. Nothing is embedded again.

    Queries from a file and captions are texts, and make a bank for the pictures. `encoder` must be the collection's own. Raises
    `InvalidSource` for a file without queries, `InvalidInput` where there are no captions or the encoder brings no bank, `StoreBusy`.
    """
    with store.writer() as writer:
        pictures = _drawn_pictures(store, record)
        candidates, num_unreadable = _candidates(queries, encoder, pictures, advanced=advanced)
        texts = tuning_queries(store, record, lambda: encoder)
        applied = []
        for candidate in candidates:
            fitted, bank = _fitted(candidate, queries, store, record, encoder=encoder, pictures=pictures, advanced=advanced)
            advanced(f"biasing {candidate.modality}s", 0, 1)
            stored = stored_bank(candidate.modality, bank, origin=candidate.origin)
            writer.replace_bank(record.collection_id, stored, bank.biases, queries=texts)
            num_items = store.snapshot(record.collection_id).num_items(candidate.modality)
            applied.append(AppliedBank(candidate.modality, candidate.origin, len(bank.weights), bank.strength, fitted, num_items))
    return HubnessReport(record.name, tuple(applied), num_unreadable)


def leave_hubness(store: Store, record: CollectionRecord) -> None:
    """Take no bias off any more. Raises `StoreBusy`."""
    with store.writer() as writer:
        writer.remove_banks(record.collection_id)


def _candidates(
    queries: Path | OwnQueries, encoder: Encoder, pictures: Sequence[_Picture], *, advanced: Advanced
) -> tuple[list[_Candidate], int]:
    """The banks that `queries` give, and how many lines of a file are none."""
    match queries:
        case OwnQueries.ENCODER:
            if not encoder.query_banks:
                raise InvalidInput(f"{encoder.name} brings no bank of queries; make one with --queries FILE or --captions")
            return [_Candidate(modality, bank, f"of {encoder.name}") for modality, bank in sorted(encoder.query_banks.items())], 0
        case OwnQueries.CAPTIONS:
            captions = [caption for picture in pictures for caption in picture.captions]
            if not captions:
                raise InvalidInput("the collection's pictures have no captions; make a bank of queries with --queries FILE")
            bank = _bank_of_texts(captions, encoder, advanced=advanced)
            return [_Candidate(Modality.IMAGE, bank, counted(len(captions), "caption"))], 0
        case Path():
            texts, num_unreadable = _read_queries(queries)
            bank = _bank_of_texts(texts, encoder, advanced=advanced)
            return [_Candidate(Modality.IMAGE, bank, f"{counted(len(texts), 'text')} of {queries.name}")], num_unreadable


def _fitted(
    candidate: _Candidate,
    queries: Path | OwnQueries,
    store: Store,
    record: CollectionRecord,
    *,
    encoder: Encoder,
    pictures: Sequence[_Picture],
    advanced: Advanced,
) -> tuple[FittedStrength | None, QueryBank]:
    """What captions that the bank does not hold say of it, and the bank with the strength that follows."""
    held_out = [picture for picture in pictures if picture.is_held_out or not picture.captions]
    judged = _judged_captions(held_out)
    if candidate.modality is not Modality.IMAGE or len(judged) < MIN_VALIDATION_QUERIES:
        strength = candidate.bank.strength if queries is OwnQueries.ENCODER else DEFAULT_STRENGTH
        return None, candidate.bank.with_strength(strength)
    measured = candidate.bank
    if queries is OwnQueries.CAPTIONS:  # a caption in the bank speaks against its own picture, so those that are asked stay out of it
        kept = [caption for picture in pictures if not picture.is_held_out for caption in picture.captions]
        if not kept:
            return None, candidate.bank.with_strength(DEFAULT_STRENGTH)
        measured = _bank_of_texts(kept, encoder, advanced=advanced)
    embeddings = store.snapshot(record.collection_id).embeddings(np.array([picture.item_id for picture in held_out], dtype=np.int64))
    xq = _embedded(list(judged), encoder, what="embedding captions that judge", advanced=advanced)
    is_relevant = np.zeros((len(judged), len(held_out)), dtype=np.bool_)
    for row, columns in enumerate(judged.values()):
        is_relevant[row, columns] = True
    fitted = fit_strength(xq @ embeddings.T, measured.biases(embeddings), is_relevant)
    return fitted, candidate.bank.with_strength(fitted.strength)


def _judged_captions(pictures: Sequence[_Picture]) -> Mapping[str, Sequence[int]]:
    """Captions to ask, evenly drawn, each with the positions of all pictures that have it."""
    columns_by_caption: dict[str, list[int]] = {}
    for column, picture in enumerate(pictures):
        for caption in picture.captions:
            columns_by_caption.setdefault(caption, []).append(column)
    return {caption: columns_by_caption[caption] for caption in _evenly(list(columns_by_caption), MAX_VALIDATION_QUERIES)}


def _bank_of_texts(texts: Sequence[str], encoder: Encoder, *, advanced: Advanced) -> QueryBank:
    drawn = _evenly(list(dict.fromkeys(texts)), MAX_QUERIES)
    embeddings = _embedded(drawn, encoder, what="embedding queries", advanced=advanced)
    return compressed_bank(embeddings, num_centroids=NUM_CENTROIDS, factor=FACTOR_OF_TEXTS, strength=DEFAULT_STRENGTH)


def _embedded(texts: Sequence[str], encoder: Encoder, *, what: str, advanced: Advanced) -> Embeddings:
    parts = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        advanced(what, start, len(texts))
        parts.append(encoder.embed_texts(texts[start : start + _TEXTS_AT_ONCE]))
    return np.concatenate(parts)


def _read_queries(path: Path) -> tuple[list[str], int]:
    """The texts of a file, and how many of its lines are none. Raises `InvalidSource` where there is no text."""
    texts: list[str] = []
    num_unreadable = 0
    for scanned in open_source(path, SourceKind.TEXTS).scan():
        match scanned:
            case SourceItem(text=str(text)):
                texts.append(text)
            case BrokenInput():
                num_unreadable += 1
    if not texts:
        raise InvalidSource(f"{path} holds no query; a line is one, or the column 'text' of a table")
    return texts, num_unreadable


def _drawn_pictures(store: Store, record: CollectionRecord) -> list[_Picture]:
    """Pictures of the collection, those with captions first and evenly drawn: by a digest of their keys, which also says who is held out.

    The same ones every time; memory is bounded by `MAX_PICTURES`, and every picture's record is read once.
    """
    drawn = heapq.nsmallest(MAX_PICTURES, _described_pictures(store, record), key=lambda described: described[:2])
    return [_Picture(item_id, captions, is_held_out=digest % 2 == 1) for _, digest, item_id, captions in drawn]


def _described_pictures(store: Store, record: CollectionRecord) -> Iterator[tuple[bool, int, ItemId, tuple[str, ...]]]:
    """For each picture: whether it has no caption, the digest of its key, its id and captions."""
    known = (item.item_id for item in store.known_items(record.collection_id) if item.modality is Modality.IMAGE)
    while page := list(islice(known, _ITEMS_AT_ONCE)):
        for item_id, item in store.items(record.collection_id, page).items():
            captions = tuple(dict.fromkeys(item.text.split("\n"))) if item.text else ()
            digest = int.from_bytes(hashlib.sha256(item.key.encode("utf-8", "surrogateescape")).digest()[:8])
            yield not captions, digest, item_id, captions


def _evenly(texts: Sequence[str], most: int) -> list[str]:
    """At most so many, from the whole length of the list."""
    if len(texts) <= most:
        return list(texts)
    places: NDArray[np.int64] = np.linspace(0, len(texts) - 1, most).astype(np.int64)
    return [texts[place] for place in places]
