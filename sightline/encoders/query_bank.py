"""A bank of queries, and the hubness bias that it gives an item: how near the item is to queries of every kind.

Some items of a shared space are near every query and push the right one down. The bias of an item is the log-mean-exp of its similarities
to queries that stand for those that will be asked,

    bias(item) = log(sum_i w_i exp(factor * cos(item, query_i))) / factor,

and an item is ranked by similarity - strength * bias (QB-Norm, Bogolin et al. 2022; the inverted softmax of Smith et al. 2017, in log).
Where we differ: a bank is compressed to weighted centroids, so that it fits into a checkpoint and a catalogue; and how much of the bias is
taken off is fitted on validation data (`fit_strength`), none of it where none helps. The bias is a property of the item, so it is computed
once, when the item is stored, and a search subtracts it for nothing.

numpy alone: a bank is read wherever items are stored, also where no network runs.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from sightline.errors import InvalidInput
from sightline.metrics import best_relevant_ranks
from sightline.types import Embeddings

FACTOR_OF_TEXTS = 20.0
"""Inverse temperature for a bank of texts, asked against pictures: a sharper or weaker one helped less on Flickr8k."""

FACTOR_OF_IMAGES = 10.0
"""The same for a bank of pictures, asked against texts."""

DEFAULT_STRENGTH = 0.5
"""Where nothing can be measured: half of the bias helped also with a bank of texts that were written for other pictures."""

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""What `fit_strength` tries besides 0: between two neighbours the hit rate differs by a few tenths of a point."""

_FORMAT = 1
_SIMILARITIES_AT_ONCE = 4_000_000
"""Items of a block times queries of the bank: 16 MB, and as much again for the exponentials."""

_CLUSTERING_ROUNDS = 10
_UNIT_TOLERANCE = 5e-3
"""fp16 keeps 11 bits: the length of a rounded unit vector is off by 5e-4 at the most."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class QueryBank:
    """Queries or their centroids, and how to weigh them. Raises `InvalidInput` for values that make no bank."""

    embeddings: NDArray[np.float16]  # (n, embedding_dim), of unit length
    weights: NDArray[np.float32]  # (n,), positive, of sum 1
    factor: float  # inverse temperature: the higher, the more the nearest queries count
    strength: float  # how much of the bias is taken off, in [0, 1]; 0: none ever
    fingerprint: str = dataclasses.field(init=False)  # of all that the biases depend on, so not of the strength

    def __post_init__(self) -> None:
        if (problem := _problem(self)) is not None:
            raise InvalidInput(f"this is no bank of queries: {problem}")
        object.__setattr__(self, "fingerprint", _fingerprint(self))

    @property
    def embedding_dim(self) -> int:
        """Width of the space that the queries are in."""
        return int(self.embeddings.shape[1])

    def biases(self, embeddings: NDArray[np.float16] | Embeddings) -> NDArray[np.float32]:
        """The bias of each of (rows, embedding_dim), in [-1, 1]; memory is that of one block of rows."""
        queries = self.embeddings.astype(np.float32).T  # (dim, n)
        log_weights = np.log(self.weights)
        biases = np.empty(len(embeddings), dtype=np.float32)
        for rows in _blocks(len(embeddings), columns=len(self.weights)):
            exponents = self.factor * (embeddings[rows].astype(np.float32) @ queries) + log_weights  # (block, n)
            largest = exponents.max(axis=1, keepdims=True)  # (block, 1)
            sums = np.exp(exponents - largest).sum(axis=1, dtype=np.float32)
            biases[rows] = (np.log(sums) + largest[:, 0]) / self.factor
        return biases

    def with_strength(self, strength: float) -> "QueryBank":
        """The same bank, of which so much is taken off; its fingerprint stays."""
        return dataclasses.replace(self, strength=strength)

    def to_bytes(self) -> bytes:
        """As a file or a database holds it: safetensors."""
        return save_tensors(
            {
                "format": np.array([_FORMAT], dtype=np.int64),
                "embeddings": np.ascontiguousarray(self.embeddings),
                "weights": np.ascontiguousarray(self.weights),
                "factor": np.array([self.factor], dtype=np.float64),
                "strength": np.array([self.strength], dtype=np.float64),
                "fingerprint": np.frombuffer(bytes.fromhex(self.fingerprint), dtype=np.uint8),
            }
        )


def bank_from_bytes(content: bytes) -> QueryBank:
    """What `to_bytes` wrote. Raises `InvalidInput` for anything else, a byte that has changed included."""
    try:
        tensors = load_tensors(content)
        if int(tensors["format"][0]) > _FORMAT:
            raise InvalidInput(f"this bank of queries has format {int(tensors['format'][0])}; this Sightline reads format {_FORMAT}")
        factor, strength = float(tensors["factor"][0]), float(tensors["strength"][0])
        bank = QueryBank(tensors["embeddings"], tensors["weights"], factor=factor, strength=strength)
        expected = tensors["fingerprint"].tobytes().hex()
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise InvalidInput(f"this is no bank of queries: {type(error).__name__}: {error}") from error
    if bank.fingerprint != expected:
        raise InvalidInput("this bank of queries is damaged: its fingerprint is not that of its content")
    return bank


def compressed_bank(embeddings: Embeddings, *, num_centroids: int, factor: float, strength: float, seed: int = 0) -> QueryBank:
    """A bank of at most `num_centroids` centroids of (queries, embedding_dim), by spherical k-means; the queries themselves where they are
    no more. The same input gives the same bank.

    Each centroid weighs as its cluster has queries. Cost: `_CLUSTERING_ROUNDS` products of all queries with all centroids, some 10 s on
    two cores for 35,000 queries, 1,024 centroids and 512 dimensions. Raises `InvalidInput` where there is no query.
    """
    if num_centroids < 1 or not len(embeddings):
        raise InvalidInput(f"a bank of {num_centroids} centroids of {len(embeddings):,} queries; both must be at least 1")
    if len(embeddings) <= num_centroids:
        counts = np.ones(len(embeddings), dtype=np.int64)
        return _bank(embeddings, counts, factor=factor, strength=strength)
    centroids, counts = _spherical_k_means(np.ascontiguousarray(embeddings, dtype=np.float32), num_centroids, seed=seed)
    return _bank(centroids, counts, factor=factor, strength=strength)


@dataclasses.dataclass(frozen=True, slots=True)
class FittedStrength:
    """How much of the bias is best taken off, and what that does to the queries that it was fitted on."""

    strength: float
    num_queries: int
    hit_rate_at_1_before: float  # percent
    hit_rate_at_1: float
    mrr_before: float
    mrr: float

    @property
    def helps(self) -> bool:
        """Whether any of it is to be taken off."""
        return self.strength > 0


def fit_strength(
    similarities: NDArray[np.float32],
    biases: NDArray[np.float32],
    is_relevant: NDArray[np.bool_],
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> FittedStrength:
    """The strength of the highest mean reciprocal rank among those that cost no hit rate@1; 0 where none is better than 0.

    Of equally good ones it is the least. Ties of an item with a wrong one count as lost.

    Args:
        similarities: (queries, items), cosines.
        biases: (items,).
        is_relevant: (queries, items), at least one true in each row.
        strengths: what to try, besides 0.
    """
    mrr_before, hit_rate_before = _quality(similarities, is_relevant)
    strength, mrr, hit_rate = 0.0, mrr_before, hit_rate_before
    for tried in sorted(strengths):
        its_mrr, its_hit_rate = _quality(similarities - np.float32(tried) * biases, is_relevant)
        if its_mrr > mrr and its_hit_rate >= hit_rate_before:
            strength, mrr, hit_rate = tried, its_mrr, its_hit_rate
    return FittedStrength(strength, len(similarities), hit_rate_before, hit_rate, mrr_before, mrr)


def _quality(similarities: NDArray[np.float32], is_relevant: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean reciprocal rank and hit rate@1, in percent."""
    ranks = best_relevant_ranks(similarities, is_relevant)
    return 100.0 * float(np.mean(1.0 / ranks)), 100.0 * float(np.mean(ranks == 1))


def _bank(embeddings: Embeddings, counts: NDArray[np.int64], *, factor: float, strength: float) -> QueryBank:
    weights = (counts / counts.sum()).astype(np.float32)
    return QueryBank(embeddings.astype(np.float16), weights, factor=factor, strength=strength)


def _spherical_k_means(rows: Embeddings, num_centroids: int, *, seed: int) -> tuple[Embeddings, NDArray[np.int64]]:
    """Unit centroids of the clusters that have rows, (clusters, dim), and how many each has."""
    generator = np.random.default_rng(seed)
    centroids = rows[np.sort(generator.choice(len(rows), num_centroids, replace=False))]  # (centroids, dim)
    counts = np.zeros(num_centroids, dtype=np.int64)
    for _ in range(_CLUSTERING_ROUNDS):
        owners, similarities = _nearest(rows, centroids)
        counts = np.bincount(owners, minlength=num_centroids)
        order = np.argsort(owners, kind="stable")
        starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        is_owned = counts > 0
        sums = np.zeros_like(centroids)
        sums[is_owned] = np.add.reduceat(rows[order], starts[is_owned], axis=0)
        num_empty = int((~is_owned).sum())
        if num_empty:  # a centroid that nothing is near starts again at a row that is far from its own
            sums[~is_owned] = rows[np.argsort(similarities, kind="stable")[:num_empty]]
        centroids = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    counts = np.bincount(_nearest(rows, centroids)[0], minlength=num_centroids)
    return centroids[counts > 0], counts[counts > 0]


def _nearest(rows: Embeddings, centroids: Embeddings) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each row's nearest centroid, the first of equals, and their similarity: (rows,) both."""
    owners = np.empty(len(rows), dtype=np.int64)
    best = np.empty(len(rows), dtype=np.float32)
    for block in _blocks(len(rows), columns=len(centroids)):
        similarities = rows[block] @ centroids.T  # (block, centroids)
        owners[block] = similarities.argmax(axis=1)
        best[block] = np.take_along_axis(similarities, owners[block][:, np.newaxis], axis=1)[:, 0]
    return owners, best


def _blocks(num_rows: int, *, columns: int) -> Iterator[slice]:
    rows_at_once = max(1, _SIMILARITIES_AT_ONCE // max(1, columns))
    for start in range(0, num_rows, rows_at_once):
        yield slice(start, min(start + rows_at_once, num_rows))


def _problem(bank: QueryBank) -> str | None:
    """What is wrong with the values, in words."""
    embeddings, weights = bank.embeddings, bank.weights
    if embeddings.ndim != 2 or not embeddings.size or weights.shape != embeddings.shape[:1]:
        return f"embeddings of shape {embeddings.shape} with weights of shape {weights.shape}; expected (n, embedding_dim) and (n,)"
    if embeddings.dtype != np.float16 or weights.dtype != np.float32:
        return f"embeddings of {embeddings.dtype} with weights of {weights.dtype}; expected float16 and float32"
    lengths = np.linalg.norm(embeddings.astype(np.float32), axis=1)
    if not np.all(np.abs(lengths - 1.0) <= _UNIT_TOLERANCE):  # a NaN fails the comparison as well
        return "embeddings that are not of unit length"
    if not np.all(weights > 0) or not abs(float(weights.sum(dtype=np.float64)) - 1.0) <= 1e-3:
        return "weights that are not positive with a sum of 1"
    if not 0 < bank.factor < 1000:
        return f"a factor of {bank.factor}; expected an inverse temperature above 0, such as {FACTOR_OF_TEXTS:g}"
    if not 0 <= bank.strength <= 1:
        return f"a strength of {bank.strength}; expected a share of the bias, from 0 to 1"
    return None


def _fingerprint(bank: QueryBank) -> str:
    digest = hashlib.sha256(f"query bank {_FORMAT} {bank.embeddings.shape} {bank.factor!r}".encode())
    digest.update(np.ascontiguousarray(bank.embeddings, dtype="<f2").data)
    digest.update(np.ascontiguousarray(bank.weights, dtype="<f4").data)
    return digest.hexdigest()
