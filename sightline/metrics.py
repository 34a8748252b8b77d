"""Retrieval metrics as pure functions of similarities; ties and similarities that are no number count against the ranking.

`hit_rate_at_k` is the share of queries with *any* relevant candidate among the first k (what CLIP papers print as R@k);
`precision_at_k` the mean share of relevant candidates among the first k.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.types import Embeddings

REPORTED_KS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class HitRates:
    """Hit rate@1/5/10 in percent."""

    at_1: float
    at_5: float
    at_10: float

    def __str__(self) -> str:
        return f"{self.at_1:.1f} / {self.at_5:.1f} / {self.at_10:.1f}"


@dataclass(frozen=True, slots=True)
class ClassPrecision:
    """How one-word queries fare over pictures with a class each."""

    precision_at_10: float  # percent, mean over the queries
    num_queries: int
    num_without_hit: int  # queries with nothing right among the first ten


def best_relevant_ranks(similarities: NDArray[np.float32], is_relevant: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank, from 1, of each query's best relevant candidate, (queries,); a tie with an irrelevant one counts as lost.

    Args:
        similarities: (queries, candidates).
        is_relevant: the same shape, at least one true in each row.
    """
    best = np.where(is_relevant, similarities, -np.inf).max(axis=1, keepdims=True)  # (queries, 1)
    # Not `>=`: that is false of NaN, and a network that gives NaN would come out perfect.
    ranks: NDArray[np.int64] = 1 + (~(similarities < best) & ~is_relevant).sum(axis=1)
    return ranks


def hit_rates(ranks: NDArray[np.int64]) -> HitRates:
    """Hit rates of ranks that count from 1."""
    at_1, at_5, at_10 = (100.0 * float(np.mean(ranks <= k)) for k in REPORTED_KS)
    return HitRates(at_1, at_5, at_10)


def caption_hit_rates(
    text_embeddings: Embeddings, image_embeddings: Embeddings, picture_by_text: NDArray[np.int64]
) -> tuple[HitRates, HitRates]:
    """(text-to-image, image-to-text) over captioned pictures; `picture_by_text` gives the row of each caption's picture."""
    similarities = text_embeddings @ image_embeddings.T  # (texts, pictures)
    is_relevant = picture_by_text[:, None] == np.arange(len(image_embeddings))[None, :]
    has_text = is_relevant.any(axis=0)
    return (
        hit_rates(best_relevant_ranks(similarities, is_relevant)),
        hit_rates(best_relevant_ranks(similarities.T[has_text], is_relevant.T[has_text])),
    )


def class_precision(similarities: NDArray[np.float32], class_by_candidate: Sequence[str], class_by_query: Sequence[str]) -> ClassPrecision:
    """Precision@10 of class names as queries; `similarities` is (queries, candidates), with fewer than ten candidates all count."""
    is_right = np.asarray(class_by_candidate)[None, :] == np.asarray(class_by_query)[:, None]  # (queries, candidates)
    order = np.lexsort((is_right, -similarities), axis=1)[:, :10]  # (queries, 10), among equals the wrong ones first
    num_right = np.take_along_axis(is_right, order, axis=1).sum(axis=1)
    return ClassPrecision(100.0 * float(np.mean(num_right / order.shape[1])), len(class_by_query), int((num_right == 0).sum()))
