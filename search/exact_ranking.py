"""Exact search in memory, in blocks: rankings by key for embeddings that are in no collection."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.evaluation import Ranking
from sightline.types import Embeddings

_SIMILARITIES_AT_ONCE = 8_000_000
"""Of a block of queries with all candidates: 32 MB, and as much again while it is partitioned."""


def rank_exactly(
    xq: Embeddings,
    xb: Embeddings,
    *,
    queries: Sequence[str],
    keys: Sequence[str],
    depth: int,
    taken_off: NDArray[np.float32] | None = None,
) -> Mapping[str, Ranking]:
    """The `depth` most similar keys of every query (fewer where there are fewer), best first, equal similarities by key.

    Args:
        xq: (queries, embedding_dim), one row for each of `queries`.
        xb: (candidates, embedding_dim), one row for each of `keys`.
        taken_off: (candidates,), what each candidate is ranked below its similarities: its hubness bias.
    """
    assert len(xq) == len(queries)
    assert len(xb) == len(keys)
    by_key = sorted(range(len(keys)), key=keys.__getitem__)
    sorted_keys = [keys[row] for row in by_key]
    rows_by_key = np.asarray(by_key, dtype=np.int64)
    candidates = xb[rows_by_key].T  # (embedding_dim, candidates), so that among equals the lower row comes first
    offsets = np.zeros(len(keys), dtype=np.float32) if taken_off is None else taken_off[rows_by_key]
    rows_at_once = max(1, _SIMILARITIES_AT_ONCE // max(1, len(keys)))
    rankings: dict[str, Ranking] = {}
    for start in range(0, len(queries), rows_at_once):
        similarities = xq[start : start + rows_at_once] @ candidates - offsets  # (block, candidates)
        for query, row, found in zip(queries[start:], similarities, best_rows(similarities, depth=depth), strict=False):
            rankings[query] = Ranking(tuple(sorted_keys[each] for each in found), tuple(row[found].tolist()))
    return rankings


def best_rows(similarities: NDArray[np.float32], *, depth: int) -> list[NDArray[np.int64]]:
    """For each row of (queries, candidates) the columns of its `depth` largest values, largest first, equal ones by column."""
    num_candidates = similarities.shape[1]
    if depth >= num_candidates:
        return list(np.argsort(-similarities, axis=1, kind="stable"))
    last = np.partition(similarities, num_candidates - depth, axis=1)[:, num_candidates - depth]  # the smallest value that is kept
    found = []
    for row, smallest in zip(similarities, last, strict=True):
        columns = np.flatnonzero(row >= smallest)  # all that tie for the last place, not those that the partition left there
        found.append(columns[np.argsort(-row[columns], kind="stable")][:depth])
    return found
