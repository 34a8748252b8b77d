"""`sightline search`. Its function has as many parameters as the command has options: typer reads them from there."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from api.cli.answers import answer_as_json, explain_answer, print_answer, print_explanations, show_notes, write_paths
from api.cli.console import write_json
from api.cli.options import DEFAULT_COLLECTION, CollectionOption, DeviceOption, EncoderOption, FusionOption, JsonOption, StoreOption
from api.cli.session import collector_paused, open_session
from api.cli.viewer import open_in_viewer
from sightline.types import Modality

DEFAULT_TOP_K = 10


def _modality(value: str) -> Modality:
    try:
        return Modality(value)
    except ValueError as error:
        raise typer.BadParameter(f"{value!r} is neither 'image' nor 'text'") from error


def search(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="WORDS", help='What to look for, as in "a dog on the beach"; `dog::2 beach` weighs.', show_default=False),
    ] = None,
    *,
    image: Annotated[
        list[Path] | None,
        # `readable`: typer would end with its own words and code for what is a sentence and a code of ours
        typer.Option("--image", "-i", metavar="FILE", help="A picture to look for; may be repeated.", readable=False),
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option("--like", metavar="KEY", help="An item of the collection to look for; may be repeated.")
    ] = None,
    without: Annotated[list[str] | None, typer.Option("--not", metavar="WORDS", help="What to stay away from; may be repeated.")] = None,
    top_k: Annotated[int, typer.Option("-k", "--top-k", metavar="NUMBER", help="How many hits.")] = DEFAULT_TOP_K,
    modality: Annotated[
        Modality | None,
        typer.Option(
            "--modality", "-m", metavar="[image|text]", parser=_modality, help="Only pictures, or only texts.", show_default="both"
        ),
    ] = None,
    collection: CollectionOption = DEFAULT_COLLECTION,
    encoder: EncoderOption = None,
    fusion: FusionOption = None,
    rerank_depth: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Candidates of the second look, whatever -k is.", show_default="64")
    ] = None,
    rerank_deadline_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="When the second look ends; what is not read keeps its place.", show_default="none")
    ] = None,
    min_match: Annotated[
        float | None, typer.Option(metavar="PROBABILITY", help="Leave out what matches with a lower probability.", show_default="none")
    ] = None,
    no_rerank: Annotated[bool, typer.Option("--no-rerank", help="Take no second look.")] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    paths: Annotated[bool, typer.Option("--paths", help="Write the hits' paths, one a line.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Write the hits' paths, each followed by a zero byte (for xargs -0).")] = False,
    sheet: Annotated[Path | None, typer.Option("--sheet", metavar="FILE", help="Draw the hits as one picture, such as out.png.")] = None,
    explain: Annotated[
        Path | None, typer.Option("--explain", metavar="FOLDER", help="Draw for each hit which part answered, into this folder.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the best hit, or the sheet, in the desktop's viewer.")] = False,
    store: StoreOption = None,
) -> None:
    """Find pictures and texts by words, by a picture, by an item, or by several of them at once."""
    if as_json + paths + null > 1:
        raise typer.BadParameter("--json, --paths and -0 are three forms of output: choose one")
    if no_rerank and (rerank_depth, rerank_deadline_ms, min_match) != (None, None, None):
        raise typer.BadParameter("--no-rerank and how to rerank exclude each other")
    from search.query import parse_query
    from search.rerank import DEFAULT_DEPTH, Reranking

    depth = DEFAULT_DEPTH if rerank_depth is None else rerank_depth
    reranking = None if no_rerank else Reranking(depth=depth, deadline_ms=rerank_deadline_ms, min_match=min_match)
    query = parse_query(" ".join(words) if words else None, images=image or (), like=like or (), without=without or (), modality=modality)
    with open_session(context, store=store, encoder=encoder, fusion=fusion, device=device) as sightline, collector_paused():
        if explain is not None:
            sightline.require_explaining(collection)
        answer = sightline.search(query, k=top_k, collection=collection, reranking=reranking)
        if sheet is not None:
            sightline.write_sheet(answer, sheet)
        explanations = None if explain is None else explain_answer(sightline, answer, folder=explain)
    if rerank_depth is not None and answer.reranked is not None and answer.reranked.depth < rerank_depth:
        there = f"there are {answer.reranked.depth:,} candidates for the second look to read; --rerank-depth asked for {rerank_depth:,}"
        answer = replace(answer, notes=(*answer.notes, there))
    show_notes(answer)
    if as_json:
        write_json(answer_as_json(answer, explanations))
    elif paths or null:
        write_paths(answer, end=b"\0" if null else b"\n")
    else:
        print_answer(answer)
        if explanations is not None:
            print_explanations(explanations)
    if open_ and answer.hits:
        open_in_viewer(str(sheet) if sheet is not None else answer.hits[0].location)
