"""Milliseconds a query of the search engine, beside bare FAISS over the same rows: `python -m benchmarks.search_latency`.

For each number of rows a store is filled through the writer, in commits as an indexing run makes them, each item with metadata. Then
queries are asked one at a time, of the engine and of FAISS in turn:

- exact: the engine over one segment without an index; FAISS's flat fp16 index over the same rows.
- ANN, where the planner wants an index: the engine after compaction; FAISS's own IndexRefine over the very index file that the
  compaction wrote and the fp16 rows, with the same nprobe and refine factor. (Refining is part of an answer: without it similarities are
  those of the codes.)
- exact on the GPU, where there is one: the engine over the segment of the second, whose rows it holds there; FAISS's flat fp16 index on the
  processor. Where there is none it is said that this was not measured.

The engine's time is that of a whole answer with the embedding given: the collection by name, the check for a new generation, the
search, and ten items with their metadata from the catalogue. Rows lie as embeddings do: clusters on some tens of dimensions of the
512. Queries lie beside the rows' distribution, as texts do beside pictures (the modality gap); the compaction is given others of
their kind to tune the index with.
"""
# ruff: noqa: E741  (D and I are FAISS's names)

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.reporting import describe_machine, markdown_table, write_json
from search.engine import SearchEngine
from search.query import parse_query
from sightline.encoders.query_bank import QueryBank
from sightline.storage.device_memory import device_memory
from sightline.storage.records import NewItem
from sightline.storage.search_plan import Method
from sightline.storage.segment import INDEX
from sightline.storage.snapshot import Snapshot
from sightline.storage.store import Store, StoreOptions
from sightline.types import Embeddings, Modality

DIM = 512
TOP_K = 10
COLLECTION = "benchmark"
_WARM_UP_QUERIES = 20

_LATENT_DIM = 32  # dimensions that the clusters are drawn in
_SPREAD = 1.0  # of a cluster, relative to the distance between clusters
_NOISE = 0.05  # on all dimensions
_GAP = 0.7  # how far queries are moved to one side, relative to their length

BareSearch = Callable[[Embeddings], NDArray[np.int64]]


class GivenEmbeddings:
    """An encoder whose texts are numbers of embeddings that are there already."""

    name = "given"
    fingerprint = "given"
    embedding_dim = DIM
    image_side = 1

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self.query_banks: Mapping[Modality, QueryBank] = {}

    def load(self, modality: Modality) -> None:
        """It has no network."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """No picture is asked for."""
        raise NotImplementedError

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        """No picture is asked for."""
        raise NotImplementedError

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """The rows with these numbers."""
        return self._embeddings[[int(text) for text in texts]]

    def is_truncated(self, text: str) -> bool:  # noqa: ARG002  the protocol's name
        """Never."""
        return False


class Clusters:
    """Unit vectors of `DIM` in clusters on a few dimensions, drawn block by block; seeded."""

    def __init__(self, num_rows: int) -> None:
        self._rng = np.random.default_rng(num_rows)
        self._centres = self._normal(max(20, num_rows // 200), _LATENT_DIM)  # (clusters, latent)
        self._lift = self._normal(_LATENT_DIM, DIM) / np.float32(DIM**0.5)  # (latent, dim)
        self._gap_direction = self._normal(DIM) / np.float32(DIM**0.5)

    def rows(self, num_rows: int) -> Embeddings:
        """(num_rows, dim), as pictures lie."""
        return self._unit(self._points(num_rows))

    def queries(self, num_queries: int) -> Embeddings:
        """(num_queries, dim), as texts lie."""
        points = self._points(num_queries)
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        return self._unit(points + _GAP * lengths * self._gap_direction)

    def _points(self, num_points: int) -> NDArray[np.float32]:
        centres = self._centres[self._rng.integers(len(self._centres), size=num_points)]
        latent = centres + _SPREAD * self._normal(num_points, _LATENT_DIM)  # (points, latent)
        lifted = latent @ self._lift  # (points, dim)
        return np.asarray(lifted + _NOISE * self._normal(num_points, DIM), dtype=np.float32)

    def _normal(self, *shape: int) -> NDArray[np.float32]:
        return self._rng.standard_normal(shape, dtype=np.float32)

    def _unit(self, points: NDArray[np.float32]) -> Embeddings:
        return np.ascontiguousarray(points / np.linalg.norm(points, axis=1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Latencies:
    """One row of the table; times in milliseconds a query."""

    num_rows: int
    plan: str
    engine_p50_ms: float
    engine_p95_ms: float
    faiss_p50_ms: float
    faiss_p95_ms: float
    on_top_p50_ms: float  # of each query's difference
    on_top_p95_ms: float
    engine_recall: float  # ANN recall@10 against exact search
    faiss_recall: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Milliseconds a query of the search engine, beside bare FAISS over the same rows.")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=500, help="how many are timed (default: 500)")
    parser.add_argument("--commit-items", type=int, default=20_000, help="items a commit while the store is filled (default: 20000)")
    parser.add_argument("--scratch", type=Path, help="folder for the stores, some 3 GB for a million rows (default: the system's)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args(arguments)
    figures: list[Latencies] = []
    for num_rows in options.rows:
        with TemporaryDirectory(dir=options.scratch, prefix="search-latency-") as folder:
            figures += measure(num_rows, Path(folder), options=options)
    print(f"{describe_machine()}\n{options.queries} queries one at a time, k = {TOP_K}, {DIM} dimensions; ms\n")
    print(markdown_table([_table_row(one) for one in figures]))
    write_json(options.json, benchmark="search_latency", figures=[asdict(one) for one in figures])
    return 0


def measure(num_rows: int, folder: Path, *, options: argparse.Namespace) -> Iterator[Latencies]:
    """Exact search first, then ANN if the planner wants it, then exact search on a GPU if there is one."""
    clusters = Clusters(num_rows)
    with Store.open(folder, options=StoreOptions(exact_max_rows=num_rows)) as store:
        fill(store, clusters, num_rows, commit_items=options.commit_items)
        queries, tuning = clusters.queries(options.queries), clusters.queries(256)
        compact(store, tuning)
        snapshot = store.snapshot(store.collection(COLLECTION).collection_id)
        yield time_queries(store, snapshot, queries, flat_search(snapshot))
    with Store.open(folder) as store:
        compact(store, tuning)
        snapshot = store.snapshot(store.collection(COLLECTION).collection_id)
        if not snapshot.prepare(modality=None).plan.is_exact:
            yield time_queries(store, snapshot, queries, refined_search(snapshot))
    with Store.open(folder, options=StoreOptions(device_memory=device_memory("cuda"))) as store:
        snapshot = store.snapshot(store.collection(COLLECTION).collection_id)
        if is_on_device(snapshot):
            yield time_queries(store, snapshot, queries, flat_search(snapshot))
        else:
            print(f"{num_rows:,} rows: search on a GPU was not measured, for want of one, of room there or of rows", file=sys.stderr)


def is_on_device(snapshot: Snapshot) -> bool:
    """Whether a GPU searches; moves the rows there."""
    return any(segment.method is Method.DEVICE for segment in snapshot.prepare(modality=None).plan.segments)


def fill(store: Store, clusters: Clusters, num_rows: int, *, commit_items: int) -> None:
    """`num_rows` items with metadata, commit by commit."""
    started = time.perf_counter()
    encoder = GivenEmbeddings(clusters.rows(1))
    record = store.create_collection(COLLECTION, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, embedding_dim=DIM)
    with store.writer() as writer:
        for start in range(0, num_rows, commit_items):
            numbers = range(start, min(start + commit_items, num_rows))
            writer.commit(record.collection_id, added=[item(number) for number in numbers], embeddings=clusters.rows(len(numbers)))
    print(f"{num_rows:,} rows committed in {time.perf_counter() - started:.1f} s", file=sys.stderr)


def compact(store: Store, tuning: Embeddings) -> None:
    """Into one segment, with the index that the planner wants."""
    started = time.perf_counter()
    with store.writer() as writer:
        report = writer.compact(store.collection(COLLECTION).collection_id, force=True, queries=tuning)
    print(f"compacted in {time.perf_counter() - started:.1f} s: {report.index_descriptions or 'no index'}", file=sys.stderr)


def flat_search(snapshot: Snapshot) -> BareSearch:
    """FAISS's flat index over the fp16 rows."""
    index: Any = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    (segment,) = snapshot.segments
    index.add_sa_codes(np.ascontiguousarray(segment.files.embeddings).view(np.uint8))

    def search(xq: Embeddings) -> NDArray[np.int64]:
        _, I = index.search(xq, TOP_K)
        return np.asarray(segment.files.item_ids[I])

    return search


def refined_search(snapshot: Snapshot) -> BareSearch:
    """FAISS's IndexRefine: the segment's own index file in memory, and the fp16 rows beside it."""
    (segment,) = snapshot.segments
    card = segment.files.manifest.index
    assert card is not None
    coarse: Any = faiss.read_index(str(segment.files.folder / INDEX))
    rows: Any = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    rows.is_trained = True
    rows.add_sa_codes(np.ascontiguousarray(segment.files.embeddings).view(np.uint8))
    index: Any = faiss.IndexRefine(coarse, rows)
    parameters_of_refine: Any = faiss.IndexRefineSearchParameters
    parameters_of_cells: Any = faiss.SearchParametersIVF
    parameters = parameters_of_refine(k_factor=card.refine_factor, base_index_params=parameters_of_cells(nprobe=card.nprobe))

    def search(xq: Embeddings) -> NDArray[np.int64]:
        _, I = index.search(xq, TOP_K, params=parameters)
        return np.asarray(segment.files.item_ids[I])

    return search


def time_queries(store: Store, snapshot: Snapshot, queries: Embeddings, bare_search: BareSearch) -> Latencies:
    """Every query asked of both, one after the other, in changing order."""
    engine = SearchEngine(store, lambda _: GivenEmbeddings(queries), max_pixels=1)
    asked = [parse_query(str(number)) for number in range(len(queries))]
    times_ms = np.empty((len(queries), 2))  # engine, FAISS
    found = np.empty((len(queries), 2, TOP_K), dtype=np.int64)

    def ask_engine(number: int) -> None:
        started = time.perf_counter()
        answer = engine.search(asked[number], collection=COLLECTION, top_k=TOP_K)
        times_ms[number, 0] = 1000 * (time.perf_counter() - started)
        found[number, 0] = [hit.item_id for hit in answer if hit.metadata]

    def ask_faiss(number: int) -> None:
        started = time.perf_counter()
        found[number, 1] = bare_search(queries[number : number + 1])
        times_ms[number, 1] = 1000 * (time.perf_counter() - started)

    for number in [*range(min(_WARM_UP_QUERIES, len(queries))), *range(len(queries))]:  # what warms up is measured anew
        for ask in (ask_engine, ask_faiss) if number % 2 else (ask_faiss, ask_engine):
            ask(number)
    return _latencies(snapshot, times_ms, _recalls(snapshot, queries, found))


def _latencies(snapshot: Snapshot, times_ms: NDArray[np.float64], recalls: NDArray[np.float64]) -> Latencies:
    """Percentiles of (queries, 2) times, those of the engine and of FAISS, and of each query's difference."""
    (engine_p50, engine_p95), (faiss_p50, faiss_p95) = np.percentile(times_ms, [50, 95], axis=0).T.tolist()
    on_top_p50, on_top_p95 = np.percentile(times_ms[:, 0] - times_ms[:, 1], [50, 95]).tolist()
    card = None if snapshot.prepare(modality=None).plan.is_exact else snapshot.segments[0].files.manifest.index
    plan = "exact" if card is None else f"{card.factory}, nprobe {card.nprobe}, refine {card.refine_factor}"
    plan = str(Method.DEVICE) if is_on_device(snapshot) else plan
    return Latencies(snapshot.num_items(), plan, engine_p50, engine_p95, faiss_p50, faiss_p95, on_top_p50, on_top_p95, *recalls.tolist())


def _recalls(snapshot: Snapshot, queries: Embeddings, found: NDArray[np.int64]) -> NDArray[np.float64]:
    """(2,): the share of the exact `TOP_K` in what engine and FAISS found, (queries, 2, TOP_K) ids."""
    candidates = snapshot.search(queries, TOP_K, modality=None, exact=True)
    exact = np.array([[candidate.item_id for candidate in ranking] for ranking in candidates])  # (queries, TOP_K)
    is_found = (found[:, :, :, np.newaxis] == exact[:, np.newaxis, np.newaxis]).any(axis=2)  # (queries, 2, TOP_K)
    return np.asarray(is_found.mean(axis=(0, 2)))


def item(number: int) -> NewItem:
    """An item with the metadata of a photograph."""
    key = f"{number // 1000:04d}/{number:07d}.jpg"
    metadata = {
        "camera": "X100",
        "taken": f"20{number % 24:02d}-06-{number % 28 + 1:02d}T12:00:00Z",
        "tags": ["beach", "dog"],
        "rating": number % 6,
    }
    return NewItem(
        key=key,
        modality=Modality.IMAGE,
        source="/photographs/",
        content_hash=f"{number:064x}",
        size_bytes=220_000,
        mtime_ns=number,
        text=f"a dog on the beach, picture {number}",
        width=1000,
        height=750,
        metadata=metadata,
    )


def _table_row(figures: Latencies) -> dict[str, object]:
    return {
        "rows": f"{figures.num_rows:,}",
        "search": figures.plan,
        "engine p50": f"{figures.engine_p50_ms:.2f}",
        "engine p95": f"{figures.engine_p95_ms:.2f}",
        "FAISS p50": f"{figures.faiss_p50_ms:.2f}",
        "FAISS p95": f"{figures.faiss_p95_ms:.2f}",
        "on top p50": f"{figures.on_top_p50_ms:.2f}",
        "on top p95": f"{figures.on_top_p95_ms:.2f}",
        "ANN recall@10": f"{figures.engine_recall:.3f}",
        "of FAISS": f"{figures.faiss_recall:.3f}",
    }


if __name__ == "__main__":
    sys.exit(main())
