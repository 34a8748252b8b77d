"""What a second look brought, as tables or as JSON: beside the first stage, by its cost, and over its depth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.evaluation import Metric

if TYPE_CHECKING:
    from rich.table import Table

    from search.second_stage import MeasuredReranking

_TITLE_BY_METRIC = {Metric.HIT_RATE_AT_1: "hit rate@1", Metric.PRECISION_AT_10: "precision@10"}


def table_of_second_looks(rerankings: "Sequence[MeasuredReranking]") -> "Table":
    """A row for each direction: depth and cost, and what the first stage, the match logit and both together put in front."""
    from api.cli.console import cell, new_table

    numbers = ("depth", "logit weight", "ms a query", "pairs a second", "first stage", "logit alone", "reranked", "best order", "headroom")
    table = new_table(f"second look, {_TITLE_BY_METRIC[rerankings[0].metric]}", *numbers, right=numbers)
    for each in rerankings:
        percents = (each.first_percent, each.by_logit_percent, each.reranked_percent, each.ceiling_percent)
        captured = None if each.headroom_captured is None else f"{round(100 * each.headroom_captured)}%"
        row = (
            *(each.first.run.name, each.depth, f"{each.logit_weight:.4g}"),
            *(f"{each.reranked.times.rerank_ms:.1f}", round(each.pairs_per_s)),
            *(f"{percent:.1f}" for percent in percents),
            captured,
        )
        table.add_row(*(cell(value) for value in row))
    return table


def table_of_curves(rerankings: "Sequence[MeasuredReranking]") -> "Table":
    """A row for each depth, and for each direction what the second look reached there and what was to be reached."""
    from api.cli.console import cell, new_table

    columns = [column for each in rerankings for column in (each.reranked.run.name, "best order")]
    table = new_table("rerank depth", *columns, right=("rerank depth", *columns))
    point_by_depth = [{point.depth: point for point in each.curve} for each in rerankings]
    for depth in sorted({depth for points in point_by_depth for depth in points}):
        found = [points.get(depth) for points in point_by_depth]
        percents = [value for point in found for value in ((None, None) if point is None else (point.percent, point.ceiling))]
        table.add_row(cell(depth), *(cell(None if percent is None else f"{percent:.1f}") for percent in percents))
    return table


def reranking_as_json(reranking: "MeasuredReranking") -> dict[str, Any]:
    """One direction as an object: percentages, milliseconds, and the difference of the reranked run from the first stage."""
    return {
        "name": reranking.reranked.run.name,
        "first": reranking.first.run.name,
        "depth": reranking.depth,
        "logit_weight": reranking.logit_weight,
        "num_pairs": reranking.num_pairs,
        "pairs_per_s": reranking.pairs_per_s,
        "rerank_ms": reranking.reranked.times.rerank_ms,
        "metric": reranking.metric,
        "first_percent": reranking.first_percent,
        "by_logit_percent": reranking.by_logit_percent,
        "reranked_percent": reranking.reranked_percent,
        "ceiling_percent": reranking.ceiling_percent,
        "headroom_captured": reranking.headroom_captured,
        "comparison": reranking.comparison,
        "curve": list(reranking.curve),
    }
