"""`sightline runs` and `sightline ledger`: what was indexed when, and what was skipped and why."""

from typing import Annotated

import typer

from api.cli.options import AnyCollectionOption, JsonOption, StoreOption
from api.cli.session import open_session


def runs(
    context: typer.Context,
    *,
    collection: AnyCollectionOption = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List indexing runs, the newest first, with what became of their inputs."""
    from api.cli.console import cell, new_table, stdout_console, write_json

    with open_session(context, store=store) as sightline:
        records = sightline.runs(collection=collection)
        name_by_id = {record.collection_id: record.name for record in sightline.collections()}
    if as_json:
        write_json(records)
        return
    numbers = ("run", "new", "changed", "moved", "unchanged", "gone", "skipped")
    table = new_table("run", "collection", "source", "state", "started", *numbers[1:], right=numbers)
    for run in records:
        counts = run.counts
        named = (run.run_id, name_by_id.get(run.collection_id), run.source, run.state, run.started_at)
        counted = (counts.new, counts.changed, counts.moved, counts.unchanged, counts.gone, counts.skipped)
        table.add_row(*(cell(value) for value in (*named, *counted)))
    stdout_console().print(table if records else "nothing has been indexed yet; `sightline index FOLDER` does it")


def ledger(
    context: typer.Context,
    *,
    run: Annotated[
        int | None, typer.Option("--run", metavar="NUMBER", help="Only this run, as `sightline runs` numbers them.", show_default="all")
    ] = None,
    collection: AnyCollectionOption = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List every input that was skipped, with its cause."""
    from api.cli.console import cell, new_table, stdout_console, write_json

    with open_session(context, store=store) as sightline:
        entries = sightline.ledger(collection=collection, run_id=run)
    if as_json:
        write_json(entries)
        return
    table = new_table("run", "input", "cause", "when", right=("run",))
    for entry in entries:
        table.add_row(cell(entry.run_id), cell(entry.key), cell(entry.cause), cell(entry.at))
    stdout_console().print(table if entries else "nothing was skipped")
