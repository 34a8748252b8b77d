"""`sightline evaluate`: how well pictures are found, and whether better than before."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.indexing import KindName
from api.cli.options import DeviceOption, EncoderOption, FusionOption, JsonOption, StoreOption
from api.cli.session import open_session

if TYPE_CHECKING:
    from api.evaluation import Evaluation, EvaluationOptions
    from search.judgements import JudgedTexts

DEFAULT_DEPTH = 100
"""As in `api.evaluation`, whose import takes longer than all of `--help`; a test holds the two equal."""


def evaluate(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE", help="Captioned pictures: any source of `index`; nothing is stored.", show_default=False),
    ] = None,
    *,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", metavar="NAME", help="Measure this collection, with the captions in it, instead.")
    ] = None,
    kind: Annotated[
        KindName | None, typer.Option("--kind", help="What the source is.", show_default="found out from its name and content")
    ] = None,
    encoder: EncoderOption = None,
    fusion: FusionOption = None,
    rerank_depth: Annotated[int | None, typer.Option(metavar="NUMBER", help="Candidates of the second look.", show_default="64")] = None,
    no_rerank: Annotated[bool, typer.Option("--no-rerank", help="Measure the first stage alone.")] = False,
    curve: Annotated[
        Path | None, typer.Option("--curve", metavar="FILE", help="Draw what the second look brings at depths 4 to 256, such as out.png.")
    ] = None,
    device: DeviceOption = None,
    qrels: Annotated[Path | None, typer.Option("--qrels", metavar="FILE", help="Judgements in TREC's format; needs --queries.")] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help="The texts of --qrels: a line is an id and a text.")
    ] = None,
    judgements: Annotated[
        Path | None, typer.Option("--judgements", metavar="FILE", help="Judgements as CSV: a row is a query and its relevant keys.")
    ] = None,
    depth: Annotated[
        int, typer.Option("--depth", metavar="NUMBER", help="Keys a query that are kept and looked at, from 10 to 1,000.")
    ] = DEFAULT_DEPTH,
    run_file: Annotated[
        Path | None, typer.Option("--run-file", metavar="FILE", help="Write what every query found, in TREC's run format.")
    ] = None,
    against: Annotated[Path | None, typer.Option("--against", metavar="RUN", help="Compare with a run file written before.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Measure how well pictures are found by their captions and captions by their pictures, and compare with a run before.

    Where a fusion encoder fits, with and without a second look.
    """
    if (source is None) == (collection is None):
        raise typer.BadParameter("name either a SOURCE or a --collection: what shall be measured?")
    if collection is not None and kind is not None:
        raise typer.BadParameter("--kind says what a SOURCE is; a --collection has none")
    if no_rerank and (rerank_depth, curve) != (None, None):
        raise typer.BadParameter("--no-rerank and how to rerank exclude each other")
    from api.cli.console import write_json
    from api.cli.evaluations import evaluation_as_json, print_evaluation
    from api.cli.progress import stage_progress
    from api.curve_picture import check_curve_path, write_curve
    from api.evaluation import EvaluationOptions
    from search.evaluation_files import check_writable, read_run_file, write_run_file
    from search.rerank import DEFAULT_DEPTH as DEFAULT_RERANK_DEPTH
    from search.reranked_runs import CURVE_DEPTHS

    depth_to_rerank = DEFAULT_RERANK_DEPTH if rerank_depth is None else rerank_depth
    options = EvaluationOptions(
        depth=depth, rerank_depth=None if no_rerank else depth_to_rerank, curve_depth=None if curve is None else max(CURVE_DEPTHS)
    )
    if curve is not None:
        check_curve_path(curve)
    judged = _read_judgements(qrels=qrels, queries=queries, table=judgements)
    former = None if against is None else read_run_file(against)
    if run_file is not None:
        check_writable(run_file)
    try:
        with stage_progress() as advanced:
            options = replace(options, judged=judged, advanced=advanced)
            if collection is not None:
                with open_session(context, store=store, encoder=encoder, fusion=fusion, device=device) as sightline:
                    evaluation = sightline.evaluate_collection(collection=collection, options=options)
            else:
                assert source is not None
                evaluation = _evaluate_source(source, kind=kind, encoder=encoder, fusion=fusion, device=device, options=options)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("stopped; nothing was measured and nothing written") from interrupt
    comparisons = None if former is None else evaluation.compared_with(former)
    if run_file is not None:
        write_run_file(run_file, [measured.run for measured in evaluation.runs])
    if curve is not None:
        write_curve(evaluation, curve)
    if as_json:
        write_json(evaluation_as_json(evaluation, comparisons))
    else:
        print_evaluation(evaluation, comparisons)


def _evaluate_source(
    source: str,
    *,
    kind: KindName | None,
    encoder: str | None,
    fusion: str | None,
    device: str | None,
    options: "EvaluationOptions",
) -> "Evaluation":
    """Without a store: there need not be one."""
    from api.encoder_shelf import EncoderShelf
    from api.evaluation import measure_encoder
    from indexer.sources import SourceKind
    from sightline.settings import load_settings

    settings = load_settings(fusion=fusion, device=device)
    source_kind = None if kind is None else SourceKind(kind)
    return measure_encoder(source, EncoderShelf(encoder, settings=settings), settings=settings, kind=source_kind, options=options)


def _read_judgements(*, qrels: Path | None, queries: Path | None, table: Path | None) -> "JudgedTexts | None":
    if (qrels is None) != (queries is None):
        raise typer.BadParameter("--qrels and --queries belong together: what is relevant, and the texts that are asked")
    if qrels is not None and table is not None:
        raise typer.BadParameter("--qrels and --judgements are two forms of one thing: choose one")
    from search.evaluation_files import read_judgement_table, read_qrels

    if qrels is not None and queries is not None:
        return read_qrels(qrels, queries=queries)
    return None if table is None else read_judgement_table(table)
