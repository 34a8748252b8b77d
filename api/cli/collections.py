"""`sightline collections`: list, show, describe, rename and delete."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.guard import complain
from api.cli.options import JsonOption, StoreOption
from api.cli.session import GlobalOptions, open_session
from indexer.wording import counted
from sightline.types import Modality

if TYPE_CHECKING:
    from sightline.storage.records import PatchStatistics

app = typer.Typer(help="List, show, describe, rename and delete collections.", invoke_without_command=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")]


@app.callback()
def list_or_command(context: typer.Context, *, as_json: JsonOption = False, store: StoreOption = None) -> None:
    """List collections with their encoder and size, unless a command follows."""
    if context.invoked_subcommand is not None:
        context.obj = context.obj if store is None else GlobalOptions(store=store)
        return
    from api.cli.console import cell, human_bytes, new_table, stdout_console, write_json

    with open_session(context, store=store) as sightline:
        described = [(record, sightline.statistics(collection=record.name)) for record in sightline.collections()]
    if as_json:
        write_json([{"collection": record, "statistics": statistics} for record, statistics in described])
        return
    columns = ("collection", "images", "texts", "size", "patches an image", "encoder", "created")
    is_described = any(record.description for record, _ in described)
    table = new_table(*columns, *(["description"] if is_described else []), right=("images", "texts", "size", "patches an image"))
    for record, statistics in described:
        num_items = [statistics.num_items_by_modality.get(modality, 0) for modality in Modality]
        patches = ", ".join(human_bytes(each.bytes_per_image) for each in statistics.patches) or "none"
        row = (record.name, *num_items, human_bytes(statistics.size_bytes), patches, record.encoder_name, record.created_at)
        table.add_row(*(cell(value) for value in (*row, *([record.description] if is_described else []))))
    stdout_console().print(table if described else "there are no collections yet; `sightline index FOLDER` makes one")
    for record, statistics in described:
        if statistics.num_missing_embeddings:
            lost = counted(statistics.num_missing_embeddings, "item")
            complain(f"note: {lost} of collection {record.name} without an embedding; `sightline verify` names the sources to index again")


@app.command()
def show(context: typer.Context, name: NameArgument, *, as_json: JsonOption = False, store: StoreOption = None) -> None:
    """Show one collection: its encoder, its items, and how it is searched."""
    from api.cli.console import cell, human_bytes, new_table, stdout_console, write_json
    from api.cli.hubness import describe_banks

    with open_session(context, store=store) as sightline:
        record, statistics = sightline.collection(name), sightline.statistics(collection=name)
    if as_json:
        write_json({"collection": record, "statistics": statistics})
        return
    recall = statistics.ann_recall
    rows = {
        "collection": record.name,
        **({"description": record.description} if record.description else {}),
        "created": record.created_at,
        "encoder": f"{record.encoder_name} ({record.embedding_dim} dimensions, fingerprint {record.encoder_fingerprint[:12]})",
        **{f"{modality}s": num_items for modality, num_items in statistics.num_items_by_modality.items()},
        **({"without embedding": statistics.num_missing_embeddings} if statistics.num_missing_embeddings else {}),
        "size": human_bytes(statistics.size_bytes),
        "segments": statistics.num_segments,
        "deleted, not yet compacted": statistics.num_tombstones,
        "search": ", ".join(sorted(set(statistics.index_descriptions))) or "exact",
        "ANN recall": "1 (exact)" if recall is None else f"{recall:.3f} (the lowest measured)",
        "hubness bias": "; ".join(describe_banks(statistics.banks)),
        "patches": "; ".join(_described_patches(each) for each in statistics.patches) or "none",
    }
    table = new_table("", "")
    table.show_header = False
    for label, value in rows.items():
        table.add_row(cell(label), cell(value))
    stdout_console().print(table)


def _described_patches(patches: "PatchStatistics") -> str:
    from api.cli.console import human_bytes

    of_encoder = f"of the fusion encoder {patches.fusion_fingerprint[:12]}"
    return f"{counted(patches.num_images, 'image')}, {human_bytes(patches.bytes_per_image)} an image, {of_encoder}"


@app.command()
def describe(
    context: typer.Context,
    name: NameArgument,
    description: Annotated[str, typer.Argument(metavar="TEXT", help="What it holds, in one line; an empty one takes away what was said.")],
    *,
    store: StoreOption = None,
) -> None:
    """Say what a collection holds, for people who choose one."""
    with open_session(context, store=store) as sightline:
        record = sightline.alter_collection(name, description=description)
    typer.echo(f"collection {record.name}: {record.description or 'nothing is said of it any more'}")


@app.command()
def rename(
    context: typer.Context,
    name: NameArgument,
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="Its name from now on.")],
    *,
    store: StoreOption = None,
) -> None:
    """Give a collection another name."""
    with open_session(context, store=store) as sightline:
        sightline.rename_collection(name, new_name)
    typer.echo(f"collection {name} is now called {new_name}")


@app.command("delete")
def delete_collection(
    context: typer.Context,
    name: NameArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
) -> None:
    """Delete a collection, its embeddings and its history; the pictures themselves stay where they are."""
    from sightline.errors import InvalidInput

    with open_session(context, store=store) as sightline:
        items = counted(sum(sightline.statistics(collection=name).num_items_by_modality.values()), "item")
        if not yes:
            if not sys.stdin.isatty():
                raise InvalidInput(f"deleting collection {name!r} ({items}) wants to be confirmed; say --yes where nobody can be asked")
            if not typer.confirm(f"Delete collection {name} with {items}?", err=True):
                typer.echo("nothing was deleted")
                return
        sightline.delete_collection(name)
    typer.echo(f"deleted collection {name} ({items}); the files that were indexed are untouched")
