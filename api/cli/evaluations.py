"""An evaluation as a table or as JSON."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from api.cli.guard import complain
from api.cli.rerankings import reranking_as_json, table_of_curves, table_of_second_looks
from indexer.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from api.evaluation import Evaluation
    from search.comparison import Comparison, Uncertainty

_TITLES = ("hit rate@1", "@5", "@10", "MRR", "nDCG@10", "precision@10")
"""Of the metrics, in their order."""

_SHOWN_SKIPPED = 3


def print_evaluation(evaluation: "Evaluation", comparisons: "Sequence[Comparison] | None") -> None:
    """A table of runs, those of the second look, one of differences for each comparison, and what was measured how.

    Notes go to standard error.
    """
    from api.cli.console import stdout_console

    console = stdout_console()
    console.print(_table_of_runs(evaluation))
    for table in _further_tables(evaluation, comparisons):
        console.print()
        console.print(table)
    reranked = {each.reranked.run.name for each in evaluation.rerankings}  # what they read is in a table of its own
    plans = "; ".join(f"{each.run.name}: {each.plan}" for each in evaluation.runs if each.run.name not in reranked)
    second_look = "no second look" if evaluation.fusion_fingerprint is None else f"fusion encoder {evaluation.fusion_fingerprint[:12]}"
    console.print()
    console.print(
        f"{evaluation.name}: {counted(evaluation.num_pictures, 'picture')}, {evaluation.encoder_name}, {second_look}, "
        f"judged by {evaluation.judged_by}, "
        f"the first {evaluation.depth} of each ranking; percent; {plans}",
        soft_wrap=True,
    )
    for note in notes(evaluation, comparisons):
        complain(f"note: {note}")


def notes(evaluation: "Evaluation", comparisons: "Sequence[Comparison] | None") -> list[str]:
    """What limits the figures."""
    told = list(evaluation.notes)
    if evaluation.skipped:
        causes = "".join(f"; {skipped.key}: {skipped.cause}" for skipped in evaluation.skipped[:_SHOWN_SKIPPED])
        told.append(f"{counted(len(evaluation.skipped), 'input')} cannot be read, left out{causes}")
    judged_by_name = {measured.run.name: len(measured.judgements) for measured in evaluation.runs}
    for comparison in (*(each.comparison for each in evaluation.rerankings), *(comparisons or ())):
        num_judged = judged_by_name[comparison.name]
        if comparison.num_queries < num_judged:
            judged = counted(num_judged, "query", plural="queries")
            told.append(f"{comparison.name}: the former run answers {comparison.num_queries:,} of {judged}; these are compared")
        if any(difference.uncertainty is None for difference in comparison.differences):
            independent = counted(comparison.num_groups, "independent query", plural="independent queries")
            told.append(f"{comparison.name}: {independent}, too few for an interval")
    return list(dict.fromkeys(told))


def evaluation_as_json(evaluation: "Evaluation", comparisons: "Sequence[Comparison] | None") -> dict[str, Any]:
    """The evaluation as an object: metrics in percent, differences in percentage points, times in milliseconds."""
    runs = [
        {
            "name": measured.run.name,
            "num_queries": len(measured.judgements),
            "num_candidates": measured.num_candidates,
            **measured.percent_by_metric(),
            "num_without_hit": measured.num_without_hit(),
            "embed_ms": measured.times.embed_ms,
            "search_ms": measured.times.search_ms,
            "rerank_ms": measured.times.rerank_ms,
            "plan": measured.plan,
        }
        for measured in evaluation.runs
    ]
    return {
        "name": evaluation.name,
        "encoder": evaluation.encoder_name,
        "encoder_fingerprint": evaluation.encoder_fingerprint,
        "judged_by": evaluation.judged_by,
        "num_pictures": evaluation.num_pictures,
        "depth": evaluation.depth,
        "runs": runs,
        "fusion_fingerprint": evaluation.fusion_fingerprint,
        "rerankings": [reranking_as_json(each) for each in evaluation.rerankings],
        "comparisons": None if comparisons is None else list(comparisons),
        "skipped": list(evaluation.skipped),
        "notes": notes(evaluation, comparisons),
    }


def _table_of_runs(evaluation: "Evaluation") -> "Table":
    from api.cli.console import cell, new_table

    numbers = ("queries", *_TITLES, "nothing right", "ms a query")
    table = new_table("", *numbers, right=numbers)
    for measured in evaluation.runs:
        values = [f"{value:.1f}" for value in measured.percent_by_metric().values()]
        row = (measured.run.name, len(measured.judgements), *values, measured.num_without_hit(), milliseconds(measured.times.total_ms))
        table.add_row(*(cell(value) for value in row))
    return table


def milliseconds(duration_ms: float) -> str:
    """Tenths, and two digits of what is less than one: pictures whose embeddings are stored ask in some 0.02 ms each."""
    return f"{duration_ms:.1f}" if duration_ms >= 1 else f"{duration_ms:.2g}"


def _further_tables(evaluation: "Evaluation", comparisons: "Sequence[Comparison] | None") -> "Iterator[Table]":
    if evaluation.rerankings:
        yield table_of_second_looks(evaluation.rerankings)
        yield table_of_curves(evaluation.rerankings)
    for reranking in evaluation.rerankings:
        yield _table_of_differences(reranking.comparison, former="first stage", present="reranked")
    for comparison in comparisons or ():
        yield _table_of_differences(comparison, former="former", present="present")


def _table_of_differences(comparison: "Comparison", *, former: str, present: str) -> "Table":
    from api.cli.console import cell, new_table

    numbers = (former, present, "difference", "95 % interval", "p")
    table = new_table(comparison.name, *numbers, right=numbers)
    for title, each in zip(_TITLES, comparison.differences, strict=True):
        row = (title, f"{each.former:.1f}", f"{each.present:.1f}", f"{each.points:+.1f}", *_told(each.uncertainty))
        table.add_row(*(cell(value) for value in row))
    return table


def _told(uncertainty: "Uncertainty | None") -> tuple[str | None, str | None]:
    if uncertainty is None:
        return None, None
    p = "< 0.001" if uncertainty.p_value < 0.001 else f"{uncertainty.p_value:.3f}"
    return f"{uncertainty.low:+.1f} to {uncertainty.high:+.1f}", p
