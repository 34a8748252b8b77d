"""`sightline explain` and `sightline match`: a picture and words, and which part of it answers."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.options import DeviceOption, EncoderOption, FusionOption, JsonOption, StoreOption
from api.cli.session import collector_paused, open_session
from api.cli.viewer import open_in_viewer

OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Draw the heat map, such as out.png.")]


def explain(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Collection.", show_default=False)],
    key: Annotated[str, typer.Argument(metavar="KEY", help="A picture of it, as `sightline search --json` shows it.", show_default=False)],
    words: Annotated[list[str], typer.Argument(metavar="WORDS...", help="The query.", show_default=False)],
    *,
    out: OutOption = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the drawing in the desktop's viewer.")] = False,
    encoder: EncoderOption = None,
    fusion: FusionOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Show which part of a picture answers which word of a query, and its ranks stage by stage, whether it is found or not."""
    if open_ and out is None:
        raise typer.BadParameter("--open shows the drawing: name it with --out FILE")
    from api.cli.console import write_json
    from api.cli.explanations import item_as_json, print_item
    from api.cli.guard import complain
    from api.drawing import check_drawable
    from search.query import parse_query

    if out is not None:
        check_drawable(out)
    query = parse_query(" ".join(words))
    with open_session(context, store=store, encoder=encoder, fusion=fusion, device=device) as sightline, collector_paused():
        explanation = sightline.explain(key, query, collection=collection)
        why_not = None if out is None else sightline.write_heat_map(explanation, out, collection=collection, query=str(query))
    for note in explanation.notes:
        complain(f"note: {note}")
    if why_not is not None:
        complain(f"note: {explanation.location}: {why_not}; the heat is drawn without it")
    if as_json:
        write_json(item_as_json(explanation))
    else:
        print_item(explanation)
    if open_:
        open_in_viewer(str(out))


def match(
    picture: Annotated[
        # `readable`: typer would end with its own words and code for what is a sentence and a code of ours
        Path, typer.Argument(metavar="PICTURE", help="A picture, in a collection or not.", show_default=False, readable=False)
    ],
    texts: Annotated[list[str], typer.Argument(metavar='"TEXT"...', help="What it may show.", show_default=False)],
    *,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Draw the heat map of the text that matches best.")] = None,
    encoder: EncoderOption = None,
    fusion: FusionOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say how well a picture matches texts, and which part of it answers; neither needs to be in a collection."""
    from api.cli.console import write_json
    from api.cli.explanations import matches_as_json, print_matches, write_best_match
    from api.cli.guard import complain
    from api.drawing import check_drawable
    from api.matching import match_picture
    from sightline.settings import load_settings

    if out is not None:
        check_drawable(out)
    settings = load_settings(fusion=fusion, device=device)
    with collector_paused():
        found = match_picture(picture, texts, encoder=encoder, settings=settings)
    if out is not None:
        write_best_match(found, out, max_pixels=settings.max_pixels)
    for note in found.notes:
        complain(f"note: {note}")
    if as_json:
        write_json(matches_as_json(found))
    else:
        print_matches(found)
