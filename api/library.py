"""Sightline from Python: open a store, index a source, search, get hits as typed objects.

    from api import open_store

    with open_store("photos.sightline") as sightline:
        report = sightline.index("photos")
        for hit in sightline.search("a dog on the beach", k=5):
            print(hit.rank, hit.similarity, hit.location)

The command line is written on this, and so is whatever comes later. What only indexing needs is imported when something is
indexed, and networks when something is embedded, so that a search starts quickly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from api.encoder_shelf import EncoderShelf
from search.engine import DEFAULT_RERANKING, DEFAULT_TOP_K, Answer, SearchEngine
from search.paging import Place
from search.query import Picture, Query, parse_query
from search.rerank import Reranking
from sightline.encoders.encoder import Encoder
from sightline.errors import CollectionNotFound, EncoderUnavailable, InvalidQuery, NotFound
from sightline.settings import DEFAULT_COLLECTION, Settings, load_settings
from sightline.storage.device_memory import device_memory
from sightline.storage.records import (
    CollectionRecord,
    CollectionStatistics,
    CompactionReport,
    Finding,
    LedgerEntry,
    RepairReport,
    RunRecord,
)
from sightline.storage.store import Store, StoreOptions
from sightline.types import CollectionId, Modality, RunId

if TYPE_CHECKING:
    from api.evaluation import Evaluation, EvaluationOptions
    from indexer.hubness import Advanced, HubnessReport, OwnQueries
    from indexer.patching import CommitListener, PatchProgress, PatchReport
    from indexer.progress import ProgressListener
    from indexer.report import IndexReport
    from indexer.sources import Source, SourceKind
    from search.explain import Explainer, HitExplanation, ItemExplanation, ItemMatch
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder


def open_store(
    folder: Path | str | None = None, *, encoder: Encoder | str | None = None, settings: Settings | None = None, create: bool = True
) -> "Sightline":
    """The store in `folder`, made if there is none unless `create` is false; close it, or use it in a `with` block.

    Without a folder it is that of the settings (`SIGHTLINE_STORE`). `encoder` is one that is loaded already, or what to load: for
    collections that do not exist yet it takes the place of `SIGHTLINE_ENCODER`, and for those that exist it has to be their own.
    Raises `StoreNotFound`, `SchemaTooNew`, `DatabaseUnavailable` and, for settings, `InvalidSetting`.
    """
    settings = settings if settings is not None else load_settings(store=folder)
    place = Path(folder) if folder is not None else settings.store
    options = StoreOptions(
        index_memory_bytes=settings.index_memory_bytes,
        min_free_bytes=settings.min_free_bytes,
        device_memory=device_memory(settings.device),
    )
    store = Store.open(place, database_url=settings.database_url, create=create, options=options)
    return Sightline(store, encoders=EncoderShelf(encoder, settings=settings), settings=settings)


class Sightline:
    """An open store with what it takes to index and to search; made by `open_store`."""

    def __init__(self, store: Store, *, encoders: EncoderShelf, settings: Settings) -> None:
        self._store = store
        self._encoders = encoders
        self._settings = settings
        self._engine = SearchEngine(store, encoders.for_collection, max_pixels=settings.max_pixels, matcher_of=encoders.matcher_for)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back the database's connections; the object is of no use afterwards."""
        self._store.close()

    @property
    def store(self) -> Store:
        """The store itself, for what is not worth a method here."""
        return self._store

    @property
    def encoders(self) -> EncoderShelf:
        """Encoders that were loaded, and those that can be."""
        return self._encoders

    @property
    def settings(self) -> Settings:
        """What it was opened with."""
        return self._settings

    def index(
        self,
        source: "Path | str | Source",
        *,
        collection: str = DEFAULT_COLLECTION,
        kind: "SourceKind | None" = None,
        prune: bool = False,
        retry_skipped: bool = False,
        patches: bool = True,
        progress: "ProgressListener | None" = None,
    ) -> "IndexReport":
        """Bring the collection in step with a folder, a manifest, shards or a text file; what is indexed already costs a look.

        The collection is made when it does not exist. `kind` is found out from the source when it is None; `prune` deletes items
        that are gone from the source; `retry_skipped` tries again what earlier runs skipped; without `patches` none are stored for a
        second look, for which they are where a fusion encoder fits. On `KeyboardInterrupt` what is whole
        is committed first. Raises `InvalidSource`, `EncoderMismatch`, `StoreBusy`, `OutOfSpace` and what loading an encoder raises.
        """
        from indexer.options import IndexOptions
        from indexer.pipeline import index_source
        from indexer.sources import open_source
        from search.readers import reader_of_patches

        opened = open_source(str(source), kind) if isinstance(source, str | Path) else source
        self._store.require_room()
        encoder = self._encoder_to_index(collection)
        options = IndexOptions.from_settings(self._settings, prune=prune, retry_skipped=retry_skipped)
        matcher = reader_of_patches(self._encoders.matcher_of(encoder, where=f"collection {collection!r}")) if patches else None
        return index_source(self._store, collection, opened, encoder, matcher=matcher, options=options, progress=progress)

    def add_patches(
        self,
        *,
        collection: str = DEFAULT_COLLECTION,
        progress: "PatchProgress | None" = None,
        committed: "CommitListener | None" = None,
    ) -> "PatchReport":
        """Store patches of those pictures that have none, for the second look; nothing is embedded again, and what was done before stays.

        Patches that are damaged are made anew. `progress` is told how far it is, `committed` how many pictures' patches are kept since it
        was told last, whatever happens. On `KeyboardInterrupt` what was made is committed first.

        Raises `CollectionNotFound`, `EncoderUnavailable` where no fusion encoder fits the collection, `StoreBusy`, `OutOfSpace`.
        """
        from indexer.options import IndexOptions
        from indexer.patching import add_patches, tell_nobody
        from search.readers import reader_of_patches

        record = self._store.collection(collection)
        encoder = self._encoders.for_collection(record)
        found = self._encoders.matcher_for(record)
        matcher = reader_of_patches(found)
        if matcher is None and found is not None:
            raise EncoderUnavailable(f"{found.name} reads the pictures themselves; it needs no patches")
        if matcher is None:
            raise EncoderUnavailable(
                f"no fusion encoder comes with {record.encoder_name}; train one (`sightline train fusion`) and name it with --fusion FOLDER"
            )
        options = IndexOptions.from_settings(self._settings)
        return add_patches(
            self._store, record, encoder, matcher, options=options, progress=progress or tell_nobody, committed=committed or tell_nobody
        )

    def search(
        self,
        query: str | Path | Query,
        *,
        k: int = DEFAULT_TOP_K,
        modality: Modality | None = None,
        collection: str = DEFAULT_COLLECTION,
        reranking: Reranking | None = DEFAULT_RERANKING,
    ) -> Answer:
        """The `k` items closest to words (a `str`), a picture (a `Path`) or anything that `search.query.parse_query` makes.

        `modality` limits the hits and belongs to the query itself where that is a `Query`. With pictures and texts in the
        collection and no modality, both are merged into one ranking. Where a fusion encoder fits the collection, the first candidates
        for words are read again, as `reranking` says; with None they are not. Raises `InvalidQuery`, `CollectionNotFound`, `ItemNotFound`,
        `UnreadableImage`, `EncoderMismatch` and what loading an encoder raises.
        """
        return self._engine.search(_as_query(query, modality=modality), collection=collection, top_k=k, reranking=reranking)

    def search_many(
        self,
        queries: Sequence[Query],
        *,
        k: int = DEFAULT_TOP_K,
        collection: str = DEFAULT_COLLECTION,
        reranking: Reranking | None = DEFAULT_RERANKING,
    ) -> list[Answer]:
        """Answers to queries of words alone, each as `search` gives it, at the cost of one pass; see `SearchEngine.search_many`."""
        return self._engine.search_many(queries, collection=collection, top_k=k, reranking=reranking)

    def search_on(self, query: Query, *, place: Place, k: int = DEFAULT_TOP_K, collection: str = DEFAULT_COLLECTION) -> Answer:
        """The `k` hits that follow an answer to the same query, whose `next_place` is `place`; raises what `search` raises.

        No hit comes twice and none is left out, whatever was added, changed or deleted in between.
        """
        return self._engine.search_on(query, collection=collection, place=place, top_k=k)

    def encoder_of(self, collection: str | None) -> Encoder:
        """The encoder of a collection, or that of new ones; raises `CollectionNotFound`, `EncoderMismatch` and what loading one raises."""
        if collection is None:
            return self._encoders.for_new_collection()
        return self._encoders.for_collection(self._store.collection(collection))

    def matcher_of(self, collection: str | None) -> "FusionMatcher | BlipMatcher | None":
        """The fusion encoder of a collection, or that of new ones; None where none fits. Raises likewise."""
        if collection is None:
            return self._encoders.matcher_of(self._encoders.for_new_collection(), where="a new collection")
        return self._encoders.matcher_for(self._store.collection(collection))

    def require_explaining(self, collection: str = DEFAULT_COLLECTION) -> None:
        """Raises `EncoderUnavailable` where no fusion encoder fits the collection: before a search whose hits are to be explained."""
        self._explainer().require(collection)

    def explain_hits(self, answer: Answer) -> "list[HitExplanation]":
        """Why the hits of an answer are hits: of each, match logit, relevance for the whole query and for every word, or why not.

        Raises `EncoderUnavailable` where no fusion encoder fits the collection.
        """
        return self._explainer().explain_hits(answer)

    def explain(self, key: str, query: str | Query, *, collection: str = DEFAULT_COLLECTION) -> "ItemExplanation":
        """Why one picture of the collection matches words, or does not, whether it is found by them or not; with its ranks and times.

        Raises `ItemNotFound`, `InvalidQuery` for an item that is no picture or a query that is not of words, `PatchesNotFound`,
        `EncoderUnavailable` where no fusion encoder fits the collection, and what `search` raises.
        """
        return self._explainer().explain_item(_as_query(query, modality=None), collection=collection, key=key)

    def match_item(self, key: str, query: str | Query, *, collection: str = DEFAULT_COLLECTION) -> "ItemMatch":
        """How one picture of the collection matches words, word by word and without ranks, which saves the search; raises likewise."""
        return self._explainer().match_item(_as_query(query, modality=None), collection=collection, key=key)

    def write_heat_map(
        self, explanation: "HitExplanation | ItemExplanation", path: Path | str, *, collection: str, query: str
    ) -> str | None:
        """Draw an explanation over its picture; gives the reason where the picture cannot be shown, which is drawn without it then.

        Raises `InvalidInput` for a path that no picture can be written at, `OutOfSpace`.
        """
        from api.explaining import drawable
        from api.heat_map import write_heat_map

        encoder = cast("TokenEncoder", self._encoders.for_collection(self._store.collection(collection)))
        return write_heat_map(drawable(explanation, query=query), Path(path), encoder=encoder, max_pixels=self._settings.max_pixels)

    def _explainer(self) -> "Explainer":
        from search.explain import Explainer

        return Explainer(self._store, self._engine, encoder_of=self._encoders.for_collection, matcher_of=self._encoders.matcher_for)

    def evaluate(self, source: Path | str, *, kind: "SourceKind | None" = None, options: "EvaluationOptions | None" = None) -> "Evaluation":
        """Measure the encoder for new collections on the pictures of a source, in memory; nothing is stored.

        Their captions or classes judge, or what `options` has from a file. Raises what `api.evaluation.evaluate_source` raises.
        """
        from api.evaluation import measure_encoder

        return measure_encoder(source, self._encoders, settings=self._settings, kind=kind, options=options)

    def evaluate_collection(self, *, collection: str = DEFAULT_COLLECTION, options: "EvaluationOptions | None" = None) -> "Evaluation":
        """Measure a collection, asked as it is searched, on the captions or classes of its pictures, or what `options` has from a file.

        Raises what `api.evaluation.evaluate_collection` raises, `CollectionNotFound` and `EncoderMismatch`.
        """
        from api.evaluation import EvaluationOptions, evaluate_collection

        record = self._store.collection(collection)
        encoder = self._encoders.for_collection(record)
        options = options or EvaluationOptions()
        matcher = None if options.rerank_depth is None else self._encoders.matcher_for(record)
        return evaluate_collection(self._store, record, engine=self._engine, encoder=encoder, options=options, matcher=matcher)

    def write_sheet(self, answer: Answer, path: Path | str) -> None:
        """Draw the answer as one picture; raises what `api.contact_sheet.write_contact_sheet` raises."""
        from api.contact_sheet import write_contact_sheet

        write_contact_sheet(answer, Path(path), max_pixels=self._settings.max_pixels)

    def collections(self) -> list[CollectionRecord]:
        """All collections, by name."""
        return self._store.collections()

    def collection(self, name: str) -> CollectionRecord:
        """One collection; raises `CollectionNotFound` with the nearest names."""
        return self._store.collection(name)

    def statistics(self, *, collection: str = DEFAULT_COLLECTION) -> CollectionStatistics:
        """How many items a collection has, and how they are stored and searched."""
        return self._store.statistics(self._store.collection(collection).collection_id)

    def create_collection(self, name: str, *, description: str = "") -> CollectionRecord:
        """An empty collection for the encoder of new ones. Raises `CollectionExists`, `InvalidInput` and what loading an encoder does."""
        from indexer.banks import encoder_banks

        encoder = self._encoders.for_new_collection()
        return self._store.create_collection(
            name,
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
            embedding_dim=encoder.embedding_dim,
            banks=encoder_banks(encoder),
            description=description,
        )

    def rename_collection(self, name: str, new_name: str) -> None:
        """Give a collection another name; raises `CollectionNotFound` or `CollectionExists`."""
        self.alter_collection(name, new_name=new_name)

    def alter_collection(
        self,
        name: str,
        *,
        new_name: str | None = None,
        description: str | None = None,
        hubness_strengths: Mapping[Modality, float] | None = None,
    ) -> CollectionRecord:
        """Give a collection another name or description, or take another share of the hubness bias off, all at once.

        What is None stays; an empty description says nothing, and a share of 0 takes nothing off of items of that modality, whose bank
        stays for another share later. Raises `CollectionNotFound`, `CollectionExists`, `InvalidInput`.
        """
        record = self._store.collection(name)
        self._store.alter_collection(record.collection_id, name=new_name, description=description, hubness_strengths=hubness_strengths)
        return self._store.collection(new_name or record.name)

    def delete_collection(self, name: str) -> None:
        """Delete a collection with its embeddings and history; files that were indexed stay.

        Raises `CollectionNotFound` or `StoreBusy`.
        """
        self._store.drop_collection(self._store.collection(name).collection_id)

    def delete(self, keys: Sequence[str], *, collection: str = DEFAULT_COLLECTION) -> int:
        """Delete items by key and return how many; raises `ItemNotFound`, and deletes none, when one of them does not exist."""
        from indexer.maintenance import delete_items

        return delete_items(self._store, collection, keys)

    def runs(self, *, collection: str | None = None) -> list[RunRecord]:
        """Indexing runs of one collection or of all, the newest first."""
        return self._store.runs(self._collection_id(collection))

    def ledger(self, *, collection: str | None = None, run_id: int | None = None) -> list[LedgerEntry]:
        """Inputs that were skipped, of one collection or run or of all, in the order in which they were met.

        Raises `CollectionNotFound`, and `NotFound` for a run that does not exist.
        """
        if run_id is not None and run_id not in {run.run_id for run in self.runs(collection=collection)}:
            of_collection = "" if collection is None else f" of collection {collection!r}"
            raise NotFound(f"there is no run {run_id}{of_collection}; `sightline runs` lists them")
        return self._store.ledger(self._collection_id(collection), None if run_id is None else RunId(run_id))

    def verify(self, *, collection: str | None = None) -> list[Finding]:
        """Compare catalogue and files, byte by byte; empty when nothing is wrong."""
        return self._store.verify(self._collection_id(collection))

    def repair(self) -> RepairReport:
        """Give up every damaged segment of the store. Raises `StoreBusy`.

        Items that lose their embedding by it keep their ids, and indexing their sources, which the report names, embeds them anew.
        """
        return self._store.repair()

    def compact(self, *, collection: str = DEFAULT_COLLECTION, force: bool = False) -> CompactionReport:
        """Merge segments, drop the rows of deleted items, build the index that the planner chooses. Raises `StoreBusy`."""
        from indexer.tuning import tuning_queries

        record = self._store.collection(collection)
        queries = tuning_queries(self._store, record, lambda: self._encoders.for_collection(record))
        with self._store.writer() as writer:
            return writer.compact(record.collection_id, force=force, queries=queries)

    def correct_hubness(
        self,
        queries: "Path | OwnQueries",
        *,
        collection: str = DEFAULT_COLLECTION,
        advanced: "Advanced | None" = None,
    ) -> "HubnessReport":
        """Take off how near some items are to every query, by a bank of queries: those of a file, captions, or what the encoder brings.

        Nothing is embedded again. How much is taken off is fitted on the captions of the collection's pictures, where there are some.
        `advanced` is told what is being done, and how much of how much of it is done. Raises `InvalidSource` for a file without queries,
        `InvalidInput` where there are no captions or the encoder brings no bank, `StoreBusy`, `EncoderMismatch`.
        """
        from indexer.hubness import correct_hubness

        record = self._store.collection(collection)
        encoder = self._encoders.for_collection(record)
        return correct_hubness(self._store, record, queries, encoder, advanced=advanced or (lambda *_: None))

    def leave_hubness(self, *, collection: str = DEFAULT_COLLECTION) -> None:
        """Take nothing off any more. Raises `StoreBusy`."""
        from indexer.hubness import leave_hubness

        leave_hubness(self._store, self._store.collection(collection))

    def _collection_id(self, name: str | None) -> CollectionId | None:
        return None if name is None else self._store.collection(name).collection_id

    def _encoder_to_index(self, collection: str) -> Encoder:
        try:
            record = self._store.collection(collection)
        except CollectionNotFound:
            return self._encoders.for_new_collection()
        return self._encoders.for_collection(record)


def _as_query(query: str | Path | Query, *, modality: Modality | None) -> Query:
    match query:
        case Query():
            if modality is None or modality is query.modality:
                return query
            if query.modality is not None:
                raise InvalidQuery(f"the query asks for {query.modality} and the call for {modality}; choose one")
            return replace(query, modality=modality)
        case Path():
            return Query((Picture(query),), modality=modality)
        case _:
            return parse_query(query, modality=modality)
