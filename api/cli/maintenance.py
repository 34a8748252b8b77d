"""`sightline delete`, `verify` and `compact`: keeping a store in order."""

from typing import Annotated

import typer

from api.cli.options import DEFAULT_COLLECTION, AnyCollectionOption, CollectionOption, JsonOption, StoreOption
from api.cli.session import open_session
from api.exit_codes import ExitCode


def delete(
    context: typer.Context,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys of items, as `sightline search --json` shows them.")],
    *,
    collection: CollectionOption = DEFAULT_COLLECTION,
    store: StoreOption = None,
) -> None:
    """Delete items from a collection; the files themselves stay where they are."""
    with open_session(context, store=store) as sightline:
        num_deleted = sightline.delete(keys, collection=collection)
    typer.echo(f"deleted {num_deleted:,} item{'' if num_deleted == 1 else 's'} from collection {collection}")


def verify(
    context: typer.Context,
    *,
    collection: AnyCollectionOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Give damaged segments of the store up, so that indexing restores their items.")
    ] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Check the catalogue against the files, byte by byte, and say what is wrong; exit code 1 when something is."""
    from api.cli.console import cell, new_table, stdout_console, write_json

    with open_session(context, store=store) as sightline:
        if repair and (num_items := sightline.repair()):
            typer.echo(f"{num_items:,} items lost their embedding; index their sources again and they are embedded anew", err=True)
        findings = sightline.verify(collection=collection)
    if as_json:
        write_json(findings)
    elif not findings:
        typer.echo("everything is as it should be")
    else:
        table = new_table("severity", "what", "where", "what to do")
        for finding in findings:
            table.add_row(*(cell(value) for value in (finding.severity, finding.what, finding.where, finding.what_to_do)))
        stdout_console().print(table)
    if findings:
        raise typer.Exit(ExitCode.DAMAGE_FOUND)


def compact(
    context: typer.Context,
    *,
    collection: AnyCollectionOption = None,
    force: Annotated[bool, typer.Option("--force", help="Rewrite everything, also where little is gained.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Merge segments, drop the rows of deleted items and build the index that the planner chooses."""
    from api.cli.console import human_bytes, write_json

    with open_session(context, store=store) as sightline:
        names = [collection] if collection is not None else [record.name for record in sightline.collections()]
        report_by_name = {name: sightline.compact(collection=name, force=force) for name in names}
    if as_json:
        write_json(report_by_name)
        return
    for name, report in report_by_name.items():
        typer.echo(
            f"{name}: merged {report.merged_segments:,} segments, dropped {report.dropped_rows:,} rows, {report.live_rows:,} remain; "
            f"freed {human_bytes(report.freed_bytes)}" + "".join(f"; {described}" for described in report.index_descriptions)
        )
