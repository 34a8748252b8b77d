"""What the rows of a segment are ranked by: similarity - weight * hubness bias, for embeddings that have a bias each.

FAISS is made to subtract by a few dimensions more, which every kind of index honours at no further cost:

    similarity - weight * bias = <(embedding, -bias), (query, weight)>

The width is rounded up to a multiple of 16, because FAISS's scalar quantisers fall back to code without SIMD for others: over 100,000 rows
on one core 512 dimensions took 4.5 ms, 513 took 55 and 528 took 4.9. Where the rows are kept in fp16 the bias takes two of these
dimensions, its fp16 value and what that leaves over: 22 bits in all, so that the rounding of a bias (1e-4 in 11 bits) decides no order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.types import Embeddings

_BIAS_DIMS = 2
_SIMD_DIMS = 16
"""FAISS's widest: AVX-512 takes 16 components at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRows:
    """Embeddings and, where the segment has them, hubness biases, row for row."""

    embeddings: NDArray[np.float16]  # (rows, embedding_dim)
    biases: NDArray[np.float32] | None = None  # (rows,)

    def __len__(self) -> int:
        return len(self.embeddings)

    @property
    def index_dim(self) -> int:
        """The width of an index over these rows."""
        embedding_dim = int(self.embeddings.shape[1])
        return embedding_dim if self.biases is None else -(-(embedding_dim + _BIAS_DIMS) // _SIMD_DIMS) * _SIMD_DIMS

    def __getitem__(self, rows: slice) -> "SegmentRows":
        return SegmentRows(self.embeddings[rows], None if self.biases is None else self.biases[rows])

    def float32_vectors(self, rows: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """What an index in float32 is built of, (rows, index_dim), for the queries of `float32_queries`."""
        embeddings = self.embeddings[rows].astype(np.float32)
        if self.biases is None:
            return embeddings
        vectors = np.zeros((len(embeddings), self.index_dim), dtype=np.float32)
        vectors[:, : embeddings.shape[1]] = embeddings
        vectors[:, embeddings.shape[1]] = -self.biases[rows]
        return vectors

    def float32_queries(self, xq: Embeddings, *, weight: float) -> NDArray[np.float32]:
        """(queries, index_dim): their products with `float32_vectors` are what is ranked by."""
        return self._queries(xq, weights=(weight, 0.0))

    def float16_vectors(self) -> NDArray[np.float16]:
        """All rows as they are kept in fp16, (rows, index_dim), for the queries of `float16_queries`."""
        if self.biases is None:
            return np.ascontiguousarray(self.embeddings)
        rounded = self.biases.astype(np.float16)
        vectors = np.zeros((len(self), self.index_dim), dtype=np.float16)
        embedding_dim = self.embeddings.shape[1]
        vectors[:, :embedding_dim] = self.embeddings
        vectors[:, embedding_dim] = -rounded
        vectors[:, embedding_dim + 1] = rounded.astype(np.float32) - self.biases
        return vectors

    def float16_queries(self, xq: Embeddings, *, weight: float) -> NDArray[np.float32]:
        """(queries, index_dim), as `float32_queries`."""
        return self._queries(xq, weights=(weight, weight))

    def _queries(self, xq: Embeddings, *, weights: tuple[float, float]) -> NDArray[np.float32]:
        if self.biases is None:
            return xq
        queries = np.zeros((len(xq), self.index_dim), dtype=np.float32)
        queries[:, : xq.shape[1]] = xq
        queries[:, xq.shape[1] : xq.shape[1] + _BIAS_DIMS] = weights
        return queries

    def taken_off(self, rows: NDArray[np.int64], *, weight: float) -> NDArray[np.float32]:
        """What ranking takes off the similarity of these rows, in any shape."""
        if self.biases is None or not weight:
            return np.zeros(rows.shape, dtype=np.float32)
        return np.float32(weight) * self.biases[rows]
