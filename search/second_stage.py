"""The second look measured: the first candidates of every query of a run read by a fusion encoder, and what that changes.

The first stage has run already, in memory or through a collection; here its first candidates get match logits, once, at the greatest
depth that is wanted. Time is taken of `rerank_depth` candidates, as a query that is served reads them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search.comparison import Comparison, compare_runs
from search.engine import Stopwatch
from search.evaluation import MeasuredRun, Metric, QueryTimes, Run
from search.evaluator import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Advanced
from search.readers import evidence_of
from search.reranked_runs import (
    CurvePoint,
    LogitsByQuery,
    best_possible,
    curve_depths,
    mean_percent,
    rerank_curve,
    reranked_run,
    run_by_logit,
)
from sightline.errors import InvalidCheckpoint

if TYPE_CHECKING:
    from search.match_inputs import KeptTokens, KnownPatches
    from sightline.encoders.matcher import Matcher

RERANKED_SUFFIX = "-reranked"
"""What the name of a run gets that took a second look; names of runs in TREC's format are one word."""

_LOGIT_SUFFIX = "-by-match-logit"

_PAIRS_AT_ONCE = 128
"""Of one call: with a fusion encoder of two layers, 256 wide, 64 to 256 read equally many a second on one core and 16 a fifth fewer."""

_QUERIES_A_REPORT = 20

PairReader = Callable[[str, Sequence[str]], NDArray[np.float32]]
"""Match logits of a query with candidates, both by key: (candidates,), NaN for those that cannot be read."""


@dataclass(frozen=True, slots=True)
class ReadDepths:
    """How many candidates of each query are read. At least 1, and `deepest` at least `rerank`."""

    rerank: int  # in the reranked run
    deepest: int  # in the curve


@dataclass(frozen=True, slots=True)
class MeasuredReranking:
    """The second look in one direction, beside the first stage that chose its candidates."""

    first: MeasuredRun
    reranked: MeasuredRun
    by_logit: Run  # ordered by match logit alone
    depth: int  # candidates a query that were to be read, where there are so many
    logit_weight: float  # what a match logit of a text with many words counts beside a similarity
    num_pairs: int  # that were read at that depth
    pairs_per_s: float
    metric: Metric  # of what follows: hit rate@1, and precision@10 where a query has many right answers
    first_percent: float
    by_logit_percent: float
    reranked_percent: float
    ceiling_percent: float  # if what is relevant among the first `depth` stood in front; at one right answer the hit rate@depth
    curve: tuple[CurvePoint, ...]
    comparison: Comparison  # of the first stage with the reranked run

    @property
    def headroom_captured(self) -> float | None:
        """The share of what a second look at that depth could gain that it does gain; below 0 where it harms. None: nothing to gain."""
        headroom = self.ceiling_percent - self.first_percent
        return (self.reranked_percent - self.first_percent) / headroom if headroom > 0 else None


def pictures_reader(matcher: "Matcher", tokens: "KeptTokens", patches: "KnownPatches") -> PairReader:
    """Queries are texts, candidates pictures."""

    def read(query: str, keys: Sequence[str]) -> NDArray[np.float32]:
        logits = np.full(len(keys), np.nan, dtype=np.float32)
        rows = patches.rows_of(keys)
        places = np.flatnonzero(rows >= 0)
        if len(places):
            texts = tokens.of([query])
            # By its evidence, as a search weighs it; the order by match logit alone is the same.
            stored = patches.read(rows[places])
            read = _checked(matcher.match_logits(texts, stored.dequantised(), image_priors=stored.priors)[0])
            logits[places] = evidence_of(texts.num_tokens)[0] * read
        return logits

    return read


def texts_reader(matcher: "Matcher", tokens: "KeptTokens", patches: "KnownPatches") -> PairReader:
    """Queries are pictures, candidates texts."""

    def read(query: str, keys: Sequence[str]) -> NDArray[np.float32]:
        rows = patches.rows_of([query])
        if rows[0] < 0:
            return np.full(len(keys), np.nan, dtype=np.float32)
        stored, texts = patches.read(rows), tokens.of(keys)
        read = _checked(matcher.match_logits(texts, stored.dequantised(), image_priors=stored.priors)[:, 0])
        return matcher.combination.shares_among_texts(texts.num_tokens) * read

    return read


@dataclass(frozen=True, slots=True)
class SecondStage:
    """A fusion encoder with all that it reads of one set of pictures and texts."""

    matcher: "Matcher"
    tokens: "KeptTokens"
    patches: "KnownPatches"
    depths: ReadDepths

    def look_at(self, first: MeasuredRun, *, metric: Metric, kept: int, advanced: Advanced) -> MeasuredReranking:
        """The second look in the direction of the run, which its name tells; see `measure_reranking`."""
        combination = self.matcher.combination
        if first.run.name == TEXT_TO_IMAGE:
            reader, weight = pictures_reader(self.matcher, self.tokens, self.patches), combination.text_to_image
        else:
            assert first.run.name == IMAGE_TO_TEXT
            reader, weight = texts_reader(self.matcher, self.tokens, self.patches), combination.image_to_text
        return measure_reranking(first, reader, weight=weight, metric=metric, depths=self.depths, kept=kept, advanced=advanced)


def measure_reranking(
    first: MeasuredRun, reader: PairReader, *, weight: float, metric: Metric, depths: ReadDepths, kept: int, advanced: Advanced
) -> MeasuredReranking:
    """The second look at a run that has at least `depths.deepest` keys a query, as far as there are candidates.

    Runs keep `kept` keys a query. Raises `InvalidCheckpoint` where match logits are no numbers.
    """
    logits, seconds = _read(first.run, reader, depths=depths, advanced=advanced)
    num_pairs = sum(int((~np.isnan(row[: depths.rerank])).sum()) for row in logits.values())
    name = first.run.name
    run = reranked_run(first.run, logits, name=f"{name}{RERANKED_SUFFIX}", depth=depths.rerank, weight=weight)
    by_logit = run_by_logit(first.run, logits, name=f"{name}{_LOGIT_SUFFIX}", depth=depths.rerank).cut(kept)
    times = QueryTimes(first.times.embed_ms, first.times.search_ms, rerank_ms=1000 * seconds / max(1, len(logits)))
    num_read = min(depths.rerank, first.run.depth)
    reranked = replace(first, run=run.cut(kept), times=times, plan=f"{first.plan}, the first {num_read:,} read again")
    first_kept = replace(first, run=first.run.cut(kept))
    points = curve_depths(rerank_depth=depths.rerank, deepest=depths.deepest, num_candidates=first.run.depth)
    return MeasuredReranking(
        first=first_kept,
        reranked=reranked,
        by_logit=by_logit,
        depth=depths.rerank,
        logit_weight=weight,
        num_pairs=num_pairs,
        pairs_per_s=num_pairs / seconds if seconds else 0.0,
        metric=metric,
        first_percent=mean_percent(first.run, first.judgements, metric),
        by_logit_percent=mean_percent(by_logit, first.judgements, metric),
        reranked_percent=mean_percent(run, first.judgements, metric),
        ceiling_percent=mean_percent(best_possible(first.run, first.judgements, depth=depths.rerank), first.judgements, metric),
        curve=rerank_curve(first.run, logits, judgements=first.judgements, metric=metric, depths=points, weight=weight),
        comparison=compare_runs(reranked.run, first_kept.run, judgements=first.judgements),
    )


def _read(first: Run, reader: PairReader, *, depths: ReadDepths, advanced: Advanced) -> tuple[LogitsByQuery, float]:
    """Logits to the deepest, and the seconds that `rerank` candidates of each query took."""
    logits: dict[str, NDArray[np.float32]] = {}
    elapsed_ms = 0.0
    clock = Stopwatch()
    for number, (query, ranking) in enumerate(first.ranking_by_query.items(), start=1):
        if number == 1:
            _logits(reader, query, ranking.keys[: depths.rerank])  # opens files and loads libraries, and is not timed
        clock.lap_ms()
        timed = _logits(reader, query, ranking.keys[: depths.rerank])
        elapsed_ms += clock.lap_ms()
        deeper = _logits(reader, query, ranking.keys[depths.rerank : depths.deepest])
        logits[query] = np.concatenate([timed, deeper])
        if number % _QUERIES_A_REPORT == 0 or number == len(first.ranking_by_query):
            advanced(f"reranking {first.name}", number, len(first.ranking_by_query))
    return logits, elapsed_ms / 1000


def _logits(reader: PairReader, query: str, keys: Sequence[str]) -> NDArray[np.float32]:
    blocks = [reader(query, keys[start : start + _PAIRS_AT_ONCE]) for start in range(0, len(keys), _PAIRS_AT_ONCE)]
    return np.concatenate([np.empty(0, dtype=np.float32), *blocks])


def _checked(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits themselves: no order could be made of what is no number, and NaN says here that a candidate was not read."""
    if not np.isfinite(logits).all():
        raise InvalidCheckpoint("the fusion encoder gave match logits that are no numbers; its weights are damaged")
    return logits
