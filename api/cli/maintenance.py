"""`sightline delete`, `verify` and `compact`: keeping a store in order."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.options import DEFAULT_COLLECTION, AnyCollectionOption, CollectionOption, DeviceOption, FusionOption, JsonOption, StoreOption
from api.cli.session import open_session
from api.exit_codes import ExitCode
from indexer.wording import counted

if TYPE_CHECKING:
    from sightline.storage.records import Finding, RepairReport

_MAX_SOURCES = 10
"""Shards are a source each, and there may be thousands."""


def delete(
    context: typer.Context,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys of items, as `sightline search --json` shows them.")],
    *,
    collection: CollectionOption = DEFAULT_COLLECTION,
    store: StoreOption = None,
) -> None:
    """Delete items from a collection; the files stay where they are, and indexing their source again adds them again."""
    with open_session(context, store=store) as sightline:
        num_deleted = sightline.delete(keys, collection=collection)
    typer.echo(f"deleted {counted(num_deleted, 'item')} from collection {collection}")


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
    from api.cli.console import write_json

    with open_session(context, store=store) as sightline:
        if repair:
            _tell_repair(sightline.repair())
        findings = sightline.verify(collection=collection)
    if as_json:
        write_json(findings)
    elif not findings:
        typer.echo("everything is as it should be")
    else:
        typer.echo("\n\n".join("\n".join(_finding_lines(finding)) for finding in findings))
    if findings:
        raise typer.Exit(ExitCode.DAMAGE_FOUND)


def _finding_lines(finding: "Finding") -> Iterator[str]:
    """A line for each thing to know, no longer than what it names: a table of paths would be several screens wide."""
    from api.cli.console import printable

    yield printable(f"{finding.severity}: {finding.what}")
    yield printable(f"  where: {finding.where}")
    yield printable(f"  to do: {finding.what_to_do}")
    if finding.collection is not None:
        yield from _source_lines(finding.sources, collection=finding.collection)


def _source_lines(sources: Sequence[str], *, collection: str) -> Iterator[str]:
    from api.cli.console import printable

    for source in sources[:_MAX_SOURCES]:
        yield printable(f"  index again: {source} (collection {collection})")
    if len(sources) > _MAX_SOURCES:
        yield f"  and {len(sources) - _MAX_SOURCES:,} more; `sightline verify --json` lists them"


def _tell_repair(report: "RepairReport") -> None:
    if report.num_items:
        typer.echo(f"{counted(report.num_items, 'item')} lost the embedding; index these sources again to embed anew:", err=True)
        for collection, sources in report.sources_by_collection.items():
            for line in _source_lines(sources, collection=collection):
                typer.echo(line, err=True)


def patches(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name.")] = DEFAULT_COLLECTION,
    *,
    fusion: FusionOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Store what the second look reads of each picture that lacks it; nothing is embedded again, and a stopped run goes on."""
    from api.cli.console import printable, write_json
    from api.cli.progress import stage_progress

    with open_session(context, store=store, fusion=fusion, device=device) as sightline, stage_progress() as advanced:
        report = sightline.add_patches(collection=collection, progress=advanced)
    if as_json:
        write_json(report)
        return
    typer.echo(f"{report.collection}: {counted(report.num_patched, 'picture')} patched, {report.num_had_patches:,} had patches")
    if report.num_replaced:
        typer.echo(f"  {counted(report.num_replaced, 'picture')} had patches of another fusion encoder, which these have replaced")
    if report.num_damaged:
        typer.echo(f"  {counted(report.num_damaged, 'picture')} had damaged patches, which were dropped and made anew")
    for key, cause in report.skipped[:_MAX_SOURCES]:
        typer.echo(printable(f"  without: {key}: {cause}"))
    if len(report.skipped) > _MAX_SOURCES:
        typer.echo(f"  and {len(report.skipped) - _MAX_SOURCES:,} more; --json lists them")


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
        described = "".join(f"; {description}" for description in report.index_descriptions)
        typer.echo(
            f"{name}: merged {counted(report.merged_segments, 'segment')}, dropped {counted(report.dropped_rows, 'row')}, "
            f"{report.live_rows:,} left; freed {human_bytes(report.freed_bytes)}{described}"
        )
