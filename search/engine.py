"""From a query to hits with their metadata, and how long each stage took."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, overload

import numpy as np

from search.embed import EmbeddedPart, QueryPictures, QueryTexts, check_pictures, embed_given, embed_pictures, embed_words
from search.paging import Place, first_page, page_after
from search.query import GivenEmbedding, LikeItem, Picture, Query, Words, checked_top_k
from search.readers import reader_of_patches
from search.rerank import Look, Reranking, SecondLook
from search.retrieve import RankedCandidate, Retrieved, retrieve, retrieve_many
from search.second_look import SecondLooker, no_match_known
from sightline.encoders.encoder import Encoder
from sightline.errors import EncoderMismatch, InvalidQuery
from sightline.locations import locate
from sightline.storage.live_segment import load_faiss
from sightline.storage.records import CollectionRecord, FoundItem
from sightline.storage.snapshot import Snapshot
from sightline.storage.store import Store
from sightline.types import CollectionId, ItemId, JsonObject, Modality

if TYPE_CHECKING:  # they import torch, which a query without words can do without
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

logger = logging.getLogger(__name__)

DEFAULT_TOP_K = 10
DEFAULT_RERANKING = Reranking()


@dataclass(frozen=True, slots=True)
class Hit:
    """One item of an answer."""

    rank: int  # 1 is the best
    item_id: ItemId
    key: str  # what the collection calls it
    location: str  # where it is: a path, or a URL
    modality: Modality
    similarity: float  # cosine of its embedding and the query's, in [-1, 1]
    adjusted_similarity: float | None  # less what is taken off of its hubness bias: what the ranking is ordered by where that is done
    centred_similarity: float | None  # what a ranking over both modalities is ordered by; None in one over a single modality
    text: str | None  # a picture's caption, or the text itself
    metadata: JsonObject
    width: int | None  # pixels, after the turn that EXIF asks for; None for texts
    height: int | None
    first_rank: int | None = None  # in the first stage, from 1; None where there was no second look
    match_probability: float | None = None  # of the second look; None for what it did not read

    @property
    def ranking_similarity(self) -> float:
        """The similarity of the three that the first stage's ranking is ordered by."""
        adjusted = self.adjusted_similarity if self.centred_similarity is None else self.centred_similarity
        return self.similarity if adjusted is None else adjusted


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds a stage."""

    embed_ms: float
    retrieve_ms: float
    metadata_ms: float
    rerank_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """All stages together; loading an encoder and FAISS for the first query is not among them."""
        return self.embed_ms + self.retrieve_ms + self.rerank_ms + self.metadata_ms


@dataclass(frozen=True, slots=True)
class Reranked:
    """What the second look did."""

    depth: int  # candidates that were to be read, of the modality that can be
    num_read: int  # by the deadline, and with patches
    logit_weight: float  # what a match logit of a text with many words counts beside a similarity


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first, ties by `item_id`; an answer is itself a sequence of them."""

    query: Query
    collection: str
    collection_id: CollectionId  # which one that name or alias stood for
    hits: tuple[Hit, ...]
    plan: str  # how the candidates were found
    notes: tuple[str, ...]  # what the person who asked should know, such as a query that was cut
    timings: Timings
    reranked: Reranked | None = None  # None where there was no second look
    next_place: Place | None = None  # for `SearchEngine.search_on`; None where no hits follow

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, position: int) -> Hit: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, position: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[position]


class SearchEngine:
    """Answers queries over the collections of a store."""

    def __init__(
        self,
        store: Store,
        encoder_of: Callable[[CollectionRecord], Encoder],
        *,
        max_pixels: int,
        matcher_of: "Callable[[CollectionRecord], FusionMatcher | BlipMatcher | None]" = lambda _: None,
    ) -> None:
        self._store = store
        self._matcher_of = matcher_of  # likewise; None where no fusion encoder fits the collection
        self._encoder_of = encoder_of  # called for queries with words or pictures only; expected to keep what it loads
        self._max_pixels = max_pixels

    def search(
        self, query: Query, *, collection: str, top_k: int = DEFAULT_TOP_K, reranking: Reranking | None = DEFAULT_RERANKING
    ) -> Answer:
        """The `top_k` items closest to the query; all items when the collection holds fewer.

        Where a fusion encoder fits the collection and the query is of words, the first `reranking.depth` candidates are read again;
        with None they are not.

        Raises `InvalidQuery`, `CollectionNotFound`, `ItemNotFound` (a query by an item), `UnreadableImage` (a query's picture),
        `EncoderMismatch` and what the store raises.
        """
        checked_top_k(top_k)
        if is_of_words(query):
            return self.search_many([query], collection=collection, top_k=top_k, reranking=reranking)[0]
        record = self._store.collection(collection)
        snapshot = self._snapshot_of(record)
        encoder = self._loaded_encoder(query, record) if _needs_encoder(query) else None
        looker = None if reranking is None else self._looker(record, snapshot, encoder=encoder)
        if looker is not None:
            looker.load_for(query, snapshot)
        clock = Stopwatch()
        will_look = looker is not None and looker.has_something_to_read(query, snapshot)
        texts = looker.texts if looker is not None and will_look and reader_of_patches(looker.matcher) is not None else None
        pictures = looker.pictures if looker is not None and looker.reads_by_pictures(query, snapshot) else None
        parts, liked_ids = self.embed(query, snapshot, encoder=encoder, texts=texts, pictures=pictures)
        embed_ms = clock.lap_ms()
        depth = reranking.depth if reranking is not None and will_look else 0
        num_candidates = max(top_k, depth) + 1  # one more tells whether there is a next page
        retrieved = retrieve(snapshot, parts, top_k=num_candidates + len(liked_ids), modality=query.modality)
        candidates = [each for each in retrieved.candidates if each.item_id not in liked_ids][:num_candidates]
        retrieve_ms = clock.lap_ms()
        notes = _notes(query, encoder=encoder)
        second = None
        if looker is not None and reranking is not None:
            second, more_notes = looker.look(query, candidates, snapshot, reranking)
            notes += more_notes
        elif reranking is not None:
            notes += self._unread(query, snapshot, reranking)
        rerank_ms = clock.lap_ms()
        ends = reranking is not None and reranking.min_match is not None
        newest_id = snapshot.newest_item_id()
        page = first_page(candidates, second, plan=retrieved.plan, newest_id=newest_id, top_k=top_k, depth=depth, ends=ends)
        hits = self._describe(page.candidates, record, page.looks)
        timings = Timings(embed_ms=embed_ms, retrieve_ms=retrieve_ms, metadata_ms=clock.lap_ms(), rerank_ms=rerank_ms)
        answer = Answer(query, collection, record.collection_id, hits, page.plan, notes, timings, _reranked(second), page.next_place)
        log_answer(answer)
        return answer

    def search_many(
        self,
        queries: Sequence[Query],
        *,
        collection: str,
        top_k: int = DEFAULT_TOP_K,
        reranking: Reranking | None = DEFAULT_RERANKING,
    ) -> list[Answer]:
        """What `answer_many` finds, each answer with its line in the log."""
        answers = self.answer_many(queries, collection=collection, top_k=top_k, reranking=reranking)
        for answer in answers:
            log_answer(answer)
        return answers

    def answer_many(self, queries: Sequence[Query], *, collection: str, top_k: int, reranking: Reranking | None) -> list[Answer]:
        """What `search` answers to each of the queries, which are of words alone, at the cost of one pass.

        The words go through the text encoder together, each segment is asked once for the queries of one modality, the fusion encoder reads
        several queries' candidates at once (see `SecondLooker.look_at_each`), and the catalogue is asked once for all hits. Each answer's
        timings are its share of those. Raises what `search` raises, for the first query that it is raised for.
        """
        checked_top_k(top_k)
        for query in queries:
            if not is_of_words(query):
                raise InvalidQuery(f"{str(query)!r} is not of words alone, as many queries at once have to be; search for it by itself")
        if not queries:
            return []
        record = self._store.collection(collection)
        snapshot = self._snapshot_of(record)
        encoder = self._loaded_encoder(queries[0], record)
        looker = None if reranking is None else self._looker(record, snapshot, encoder=encoder)
        clock = Stopwatch()
        will_look = looker is not None and looker.has_something_to_read(queries[0], snapshot)
        texts = looker.texts if looker is not None and will_look and reader_of_patches(looker.matcher) is not None else None
        words = [part for query in queries for part in query.parts if isinstance(part, Words)]
        embedded = iter(embed_words(words, encoder=encoder if texts is None else texts))
        parts_by_query = [[next(embedded) for _ in query.parts] for query in queries]
        embed_ms = clock.lap_ms() / len(queries)
        depth = reranking.depth if reranking is not None and will_look else 0
        num_candidates = max(top_k, depth) + 1  # one more tells whether there is a next page
        retrieved = _retrieved(queries, parts_by_query, snapshot, num_candidates=num_candidates)
        retrieve_ms = clock.lap_ms() / len(queries)
        looks: list[tuple[SecondLook | None, tuple[str, ...]]] = [(None, ()) for _ in queries]
        if looker is not None and reranking is not None:
            looks = looker.look_at_each(queries, [found.candidates for found in retrieved], snapshot, reranking)
        rerank_ms = clock.lap_ms() / len(queries)
        ends = reranking is not None and reranking.min_match is not None
        newest_id = snapshot.newest_item_id()
        pages = [
            first_page(found.candidates, second, plan=found.plan, newest_id=newest_id, top_k=top_k, depth=depth, ends=ends)
            for found, (second, _) in zip(retrieved, looks, strict=True)
        ]
        item_ids = dict.fromkeys(each.item_id for page in pages for each in page.candidates)
        items = self._store.found_items(record.collection_id, list(item_ids))
        hits = [_hits(page.candidates, items, page.looks) for page in pages]
        timings = Timings(embed_ms=embed_ms, retrieve_ms=retrieve_ms, metadata_ms=clock.lap_ms() / len(queries), rerank_ms=rerank_ms)
        answers = []
        for query, found, page, (second, more_notes) in zip(queries, hits, pages, looks, strict=True):
            notes = _notes(query, encoder=encoder) + more_notes
            if looker is None and reranking is not None:
                notes += self._unread(query, snapshot, reranking)
            answers.append(
                Answer(
                    query,
                    collection,
                    record.collection_id,
                    found,
                    page.plan,
                    notes,
                    timings,
                    _reranked(second),
                    page.next_place,
                )
            )
        return answers

    def search_on(self, query: Query, *, collection: str, place: Place, top_k: int = DEFAULT_TOP_K) -> Answer:
        """The `top_k` hits that follow those of an earlier answer to the same query, whose `next_place` is `place`.

        No hit comes twice, and none is left out that was there at the first page and still is, whatever was added, changed or deleted
        since (an approximate search finds what it finds). Raises what `search` raises.
        """
        checked_top_k(top_k)
        record = self._store.collection(collection)
        snapshot = self._snapshot_of(record)
        encoder = self._loaded_encoder(query, record) if _needs_encoder(query) else None
        clock = Stopwatch()
        parts, liked_ids = self.embed(query, snapshot, encoder=encoder)
        embed_ms = clock.lap_ms()
        page = page_after(place, snapshot, parts, top_k=top_k, modality=query.modality, liked=liked_ids)
        retrieve_ms = clock.lap_ms()
        hits = self._describe(page.candidates, record, page.looks, first_rank=place.num_shown + 1)
        timings = Timings(embed_ms=embed_ms, retrieve_ms=retrieve_ms, metadata_ms=clock.lap_ms())
        logger.info("answered %r over collection %s on: %d hits in %.1f ms", str(query), collection, len(hits), timings.total_ms)
        return Answer(query, collection, record.collection_id, hits, page.plan, (), timings, next_place=page.next_place)

    def _snapshot_of(self, record: CollectionRecord) -> Snapshot:
        """The collection as it is now, with what searches it in memory: importing FAISS is no part of the first query's time."""
        load_faiss()
        return self._store.snapshot_of(record)

    def _loaded_encoder(self, query: Query, record: CollectionRecord) -> Encoder:
        """The collection's encoder, with what the query needs of it in memory."""
        pictures = [part for part in query.parts if isinstance(part, Picture)]
        check_pictures(pictures)
        encoder = self._encoder_of(record)
        if encoder.fingerprint != record.encoder_fingerprint:
            raise encoder_mismatch(record, encoder)
        if pictures:  # first: what embeds pictures may bring what embeds texts with it
            encoder.load(Modality.IMAGE)
        if any(isinstance(part, Words) for part in query.parts):
            encoder.load(Modality.TEXT)
        return encoder

    def _looker(self, record: CollectionRecord, snapshot: Snapshot, *, encoder: Encoder | None) -> SecondLooker | None:
        """None where no fusion encoder fits, and where there can be nothing to read: items of one modality that are like an item."""
        if encoder is None and len(snapshot.modalities()) < 2:
            return None
        matcher = self._matcher_of(record)
        if matcher is None:
            return None
        tokens = cast("TokenEncoder", self._encoder_of(record) if encoder is None else encoder)
        pictures = QueryPictures(tokens, max_pixels=self._max_pixels)
        return SecondLooker(self._store, tokens, matcher, QueryTexts(tokens), pictures, max_pixels=self._max_pixels)

    def _unread(self, query: Query, snapshot: Snapshot, reranking: Reranking) -> tuple[str, ...]:
        """The note for a query that would have a second look if its collection's fusion encoder were at hand.

        Raises `InvalidQuery` for any query with a least match probability.
        """
        sentence = _why_unread(query, snapshot)
        if reranking.min_match is not None:
            name = snapshot.collection.name
            fits = self._matcher_of(snapshot.collection) is not None
            no_look = f"the second look reads words against pictures, and collection {name} has items of one kind alone"
            raise no_match_known(sentence or (no_look if fits else f"no fusion encoder fits collection {name}"))
        return () if sentence is None else (sentence,)

    def embed(
        self,
        query: Query,
        snapshot: Snapshot,
        *,
        encoder: Encoder | None,
        texts: QueryTexts | None = None,
        pictures: QueryPictures | None = None,
    ) -> tuple[list[EmbeddedPart], set[ItemId]]:
        """The query's parts, and the items that it names: their own rows tell nothing.

        `texts` and `pictures` are for who reads their tokens as well.
        """
        parts: list[EmbeddedPart] = []
        if encoder is not None:
            parts += embed_words([part for part in query.parts if isinstance(part, Words)], encoder=encoder if texts is None else texts)
            seen = [part for part in query.parts if isinstance(part, Picture)]
            parts += embed_pictures(seen, encoder=encoder, max_pixels=self._max_pixels) if pictures is None else pictures.embed(seen)
        liked_ids = set()
        for part in query.parts:
            if isinstance(part, LikeItem):
                item = self._store.item_by_key(snapshot.collection.collection_id, part.key)
                embedding = snapshot.embeddings(np.asarray([item.item_id], dtype=np.int64))[0]
                parts.append(EmbeddedPart(embedding, item.modality, part.weight))
                liked_ids.add(item.item_id)
            elif isinstance(part, GivenEmbedding):
                parts.append(embed_given(part, embedding_dim=snapshot.collection.embedding_dim))
        return parts, liked_ids

    def _describe(
        self, candidates: Sequence[RankedCandidate], record: CollectionRecord, looks: Sequence[Look], *, first_rank: int = 1
    ) -> tuple[Hit, ...]:
        """Hits with their metadata from one SQL query; an item that was deleted since the snapshot is no hit any more."""
        items = self._store.found_items(record.collection_id, [each.item_id for each in candidates])
        return _hits(candidates, items, looks, first_rank=first_rank)


def log_answer(answer: Answer) -> None:
    """The line of one search; to be called where it is known whose search it was."""
    of, took_ms = answer.collection, answer.timings.total_ms
    logger.info("answered %r over collection %s: %d hits in %.1f ms", str(answer.query), of, len(answer), took_ms)


class Stopwatch:
    """Milliseconds since it was started or last read."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        """Time since the last lap; starts the next one."""
        now = time.perf_counter()
        elapsed_ms = (now - self._last) * 1000
        self._last = now
        return elapsed_ms


def encoder_mismatch(record: CollectionRecord, encoder: Encoder) -> EncoderMismatch:
    """The error that says which encoder made the collection, which one asks, and what to do."""
    theirs, ours = record.encoder_fingerprint[:12], encoder.fingerprint[:12]
    if record.encoder_name == encoder.name:  # an upgrade brought other weights, or a checkpoint was trained again
        return EncoderMismatch(
            f"collection {record.name!r} was embedded by {encoder.name} with other weights (fingerprint {theirs}) than it has now "
            f"({ours}): delete the collection (`sightline collections delete {record.name}`) and index its sources again, "
            "or index them into a new one with --collection NAME"
        )
    return EncoderMismatch(
        f"collection {record.name!r} was embedded by {record.encoder_name} (fingerprint {theirs}), "
        f"not by {encoder.name} (fingerprint {ours}): leave --encoder away to use the collection's own, "
        f"or index into a new collection with --collection NAME --encoder {encoder.name}"
    )


def _needs_encoder(query: Query) -> bool:
    return any(isinstance(part, Words | Picture) for part in query.parts)


def is_of_words(query: Query) -> bool:
    """Whether words are all that it has."""
    return all(isinstance(part, Words) for part in query.parts)


def _retrieved(
    queries: Sequence[Query], parts_by_query: Sequence[Sequence[EmbeddedPart]], snapshot: Snapshot, *, num_candidates: int
) -> list[Retrieved]:
    """Of each query; those of one modality are asked together."""
    retrieved: dict[int, Retrieved] = {}
    for modality in dict.fromkeys(query.modality for query in queries):
        numbers = [number for number, query in enumerate(queries) if query.modality is modality]
        asked = [parts_by_query[number] for number in numbers]
        retrieved |= zip(numbers, retrieve_many(snapshot, asked, top_k=num_candidates, modality=modality), strict=True)
    return [retrieved[number] for number in range(len(queries))]


def _reranked(second: SecondLook | None) -> Reranked | None:
    return None if second is None else Reranked(second.num_to_read, second.num_read, second.logit_weight)


def _why_unread(query: Query, snapshot: Snapshot) -> str | None:
    """The sentence for a query over a collection with patches of another fusion encoder; None where nobody would expect a second look."""
    formats = snapshot.patch_formats()
    if not formats or not _needs_encoder(query) or len({isinstance(part, Words) for part in query.parts}) > 1:
        return None
    reads = Modality.IMAGE if is_of_words(query) else Modality.TEXT
    if query.modality not in (None, reads) or not snapshot.num_items(reads):
        return None
    patches = f"collection {snapshot.collection.name} has patches of the fusion encoder {formats[-1].fusion_fingerprint[:12]}"
    return f"there was no second look: {patches}, which is not beside its encoder; name its folder with --fusion for a second look"


def _hits(
    candidates: Sequence[RankedCandidate], items: Mapping[ItemId, FoundItem], looks: Sequence[Look], *, first_rank: int = 1
) -> tuple[Hit, ...]:
    """Those of the candidates that are still among the items, with their metadata."""
    seen = [*looks, *([None] * (len(candidates) - len(looks)))]
    living = [(each, look) for each, look in zip(candidates, seen, strict=True) if each.item_id in items]
    return tuple(_hit(rank, each, items[each.item_id], look) for rank, (each, look) in enumerate(living, start=first_rank))


def _notes(query: Query, *, encoder: Encoder | None) -> tuple[str, ...]:
    if encoder is None:
        return query.notes
    truncated = [part.text for part in query.parts if isinstance(part, Words) and encoder.is_truncated(part.text)]
    return query.notes + tuple(f"{encoder.name} read only the beginning of the words {text[:40]!r}..." for text in truncated)


def _hit(rank: int, candidate: RankedCandidate, item: FoundItem, look: Look | None) -> Hit:
    return Hit(
        rank=rank,
        item_id=item.item_id,
        key=item.key,
        location=locate(item.source, item.key),
        modality=item.modality,
        similarity=candidate.similarity,
        adjusted_similarity=candidate.adjusted_similarity,
        centred_similarity=candidate.centred_similarity,
        text=item.text,
        metadata=item.metadata,
        width=item.width,
        height=item.height,
        first_rank=None if look is None else look.first_rank,
        match_probability=None if look is None else look.match_probability,
    )
