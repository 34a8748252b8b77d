"""A store of a million pictures that were never taken, for the benchmarks of the service; made once and kept in the folder that is given.

Rows lie as pictures do to sightline-mini: each is a mixture of a few centroids of real pictures, which the encoder's checkpoint carries as
its bank, and noise. So texts lie off them as texts do, which is what an inverted file has to cope with. They go through the writer in
commits, with metadata, and are compacted as `sightline compact` does, tuned with real texts. Seeded. They have no patches.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from api import Sightline, open_store
from benchmarks.photographs import write_photographs
from benchmarks.search_latency import item
from sightline.encoders.load import load_encoder
from sightline.settings import DEFAULT_ENCODER
from sightline.storage.store import Store
from sightline.types import Embeddings, Modality

COLLECTION = "default"
_COMMIT_ITEMS = 20_000
_MIXED = 6  # centroids of a row
_NOISE = 1.0  # length of the noise beside a mixture of length 1: with less, a few cells of an index would hold all that is near a text


class Rows:
    """Unit vectors around a bank's pictures, drawn block by block."""

    def __init__(self, centroids: Embeddings, *, seed: int) -> None:
        self._centroids = centroids
        self._rng = np.random.default_rng(seed)

    def draw(self, num_rows: int) -> Embeddings:
        """(num_rows, dim)."""
        chosen = self._centroids[self._rng.integers(len(self._centroids), size=(num_rows, _MIXED))]  # (rows, mixed, dim)
        shares = self._rng.dirichlet(np.full(_MIXED, 0.5), size=num_rows).astype(np.float32)  # (rows, mixed)
        mixtures = _unit(np.einsum("rm,rmd->rd", shares, chosen))
        noise = self._rng.standard_normal(mixtures.shape, dtype=np.float32) * np.float32(_NOISE / mixtures.shape[1] ** 0.5)
        return _unit(mixtures + noise)


def open_million(folder: Path, *, num_rows: int) -> Sightline:
    """The store with `num_rows` items in `folder`, filled and compacted where that was not done before. The caller closes it."""
    sightline = open_store(folder)
    if not any(record.name == COLLECTION for record in sightline.collections()):
        sightline.close()
        fill(folder, num_rows=num_rows)
        sightline = open_store(folder)
    statistics = sightline.statistics(collection=COLLECTION)
    num_stored = sum(statistics.num_items_by_modality.values())
    if num_stored != num_rows:
        sightline.close()
        raise SystemExit(f"{folder} holds {num_stored:,} items and not {num_rows:,}: name another folder, or delete it")
    if statistics.num_segments > 1:
        started = time.perf_counter()
        report = sightline.compact(collection=COLLECTION, force=True)
        sys.stderr.write(f"compacted in {time.perf_counter() - started:.0f} s: {report.index_descriptions or 'no index'}\n")
    return sightline


def open_pictures(folder: Path, *, num_rows: int) -> Sightline:
    """The store with so many synthetic photographs and their patches in `folder`, indexed where that was not done before."""
    sightline = open_store(folder)
    if not any(record.name == COLLECTION for record in sightline.collections()):
        with TemporaryDirectory(prefix="photographs-") as scratch:
            write_photographs(Path(scratch), num_rows)
            sightline.index(Path(scratch), collection=COLLECTION)
    num_stored = sum(sightline.statistics(collection=COLLECTION).num_items_by_modality.values())
    if num_stored != num_rows:
        sightline.close()
        raise SystemExit(f"{folder} holds {num_stored:,} items and not {num_rows:,}: name another folder, or delete it")
    return sightline


def fill(folder: Path, *, num_rows: int) -> None:
    """`num_rows` items with metadata, commit by commit."""
    encoder = load_encoder(DEFAULT_ENCODER)
    rows = Rows(encoder.query_banks[Modality.TEXT].embeddings.astype(np.float32), seed=num_rows)
    started = time.perf_counter()
    with Store.open(folder) as store:
        record = store.create_collection(
            COLLECTION, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, embedding_dim=encoder.embedding_dim
        )
        with store.writer() as writer:
            for start in range(0, num_rows, _COMMIT_ITEMS):
                numbers = range(start, min(start + _COMMIT_ITEMS, num_rows))
                writer.commit(record.collection_id, added=[item(number) for number in numbers], embeddings=rows.draw(len(numbers)))
    sys.stderr.write(f"{num_rows:,} rows committed in {time.perf_counter() - started:.0f} s\n")


def _unit(rows: Embeddings) -> Embeddings:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
