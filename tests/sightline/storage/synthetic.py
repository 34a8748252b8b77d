"""Synthetic items and embeddings, and the brute-force search that storage is compared with."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.storage.records import NewItem
from sightline.storage.snapshot import Candidate
from sightline.types import Embeddings, Modality

SIMILARITY_TOLERANCE = 2e-3
"""fp16 keeps 11 bits: a product of two unit vectors of which one is rounded is off by 5e-4 at the most; FAISS sums in another order."""


def unit_rows(num_rows: int, dim: int = 16, *, seed: int = 0) -> Embeddings:
    """(num_rows, dim) unit vectors in all directions."""
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def new_items(keys: Iterable[str | int], *, modality: Modality = Modality.IMAGE, source: str = "/photos") -> list[NewItem]:
    """Items that differ in their key only."""
    return [NewItem(str(key), modality, source, f"hash-{key}", 1000, 1_700_000_000_000_000_000, metadata={"key": str(key)}) for key in keys]


def best_similarities(rows: NDArray[np.float32], xq: Embeddings, k: int) -> NDArray[np.float32]:
    """(queries, min(k, rows)), best first, by brute force."""
    return -np.sort(-(xq @ rows.T), axis=1)[:, :k]


def similarities(found: Sequence[Sequence[Candidate]]) -> list[list[float]]:
    """The similarities of each query's candidates."""
    return [[candidate.similarity for candidate in candidates] for candidates in found]
