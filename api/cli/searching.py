"""`sightline search`. Its function has as many parameters as the command has options: typer reads them from there."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.answers import answer_as_json, print_answer, show_notes, write_paths
from api.cli.console import write_json
from api.cli.options import DEFAULT_COLLECTION, CollectionOption, DeviceOption, EncoderOption, JsonOption, StoreOption
from api.cli.session import open_session
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
    device: DeviceOption = None,
    as_json: JsonOption = False,
    paths: Annotated[bool, typer.Option("--paths", help="Write the hits' paths, one a line.")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Write the hits' paths, each followed by a zero byte (for xargs -0).")] = False,
    sheet: Annotated[Path | None, typer.Option("--sheet", metavar="FILE", help="Draw the hits as one picture, such as out.png.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the best hit, or the sheet, in the desktop's viewer.")] = False,
    store: StoreOption = None,
) -> None:
    """Find pictures and texts by words, by a picture, by an item, or by several of them at once."""
    if as_json + paths + null > 1:
        raise typer.BadParameter("--json, --paths and -0 are three forms of output: choose one")
    from search.query import parse_query

    query = parse_query(" ".join(words) if words else None, images=image or (), like=like or (), without=without or (), modality=modality)
    with open_session(context, store=store, encoder=encoder, device=device) as sightline:
        answer = sightline.search(query, k=top_k, collection=collection)
        if sheet is not None:
            sightline.write_sheet(answer, sheet)
    show_notes(answer)
    if as_json:
        write_json(answer_as_json(answer))
    elif paths or null:
        write_paths(answer, end=b"\0" if null else b"\n")
    else:
        print_answer(answer)
    if open_ and answer.hits:
        open_in_viewer(str(sheet) if sheet is not None else answer.hits[0].location)
