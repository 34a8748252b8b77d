"""`sightline index`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from api.cli.console import printable, write_json
from api.cli.options import DEFAULT_COLLECTION, CollectionOption, DeviceOption, EncoderOption, FusionOption, JsonOption, StoreOption
from api.cli.session import open_session
from indexer.wording import counted

if TYPE_CHECKING:
    from indexer.report import IndexReport

KindName = Literal["folder", "manifest", "webdataset", "texts"]
"""As `indexer.sources.SourceKind`, whose import takes longer than all of `--help`; a test holds the two equal."""


def index(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, a manifest, shards (train-{000..099}.tar), or a text file.")],
    *,
    kind: Annotated[
        KindName | None, typer.Option("--kind", help="What the source is.", show_default="found out from its name and content")
    ] = None,
    collection: CollectionOption = DEFAULT_COLLECTION,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    prune: Annotated[bool, typer.Option("--prune", help="Delete items from the collection that are gone from the source.")] = False,
    retry_skipped: Annotated[bool, typer.Option("--retry-skipped", help="Try again what earlier runs skipped.")] = False,
    no_patches: Annotated[
        bool, typer.Option("--no-patches", help="Store nothing for the second look; `sightline patches` adds it later.")
    ] = False,
    fusion: FusionOption = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Make a source searchable; run it again and only what is new, changed, moved or gone costs time."""
    from api.cli.progress import new_progress
    from indexer.sources import SourceKind

    with (
        open_session(context, store=store, encoder=encoder, fusion=fusion, device=device, create=True) as sightline,
        new_progress() as progress,
    ):
        try:
            report = sightline.index(
                source,
                collection=collection,
                kind=None if kind is None else SourceKind(kind),
                prune=prune,
                retry_skipped=retry_skipped,
                patches=not no_patches,
                progress=progress,
            )
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                f"stopped; {counted(progress.num_committed, 'item')} of this run indexed and searchable; "
                "the same command goes on from there and reads again what was not committed"
            ) from interrupt
    if as_json:
        write_json(report)
    else:
        typer.echo(describe(report))


def describe(report: "IndexReport") -> str:
    """What the run did, in a few lines: counts, the first skipped inputs with their causes, and where the rest stands."""
    counts = report.counts
    named = {name: getattr(counts, name) for name in ("new", "changed", "moved", "unchanged", "gone", "pruned", "skipped")}
    told = ", ".join(f"{count:,} {name}" for name, count in named.items() if count or name in ("new", "unchanged"))
    rate = f" ({report.num_embedded / report.duration_s:,.0f} a second)" if report.num_embedded and report.duration_s > 0 else ""
    lines = [f"{report.source} -> collection {report.collection}: {told}; {report.duration_s:.1f} s{rate}"]
    lines += [f"  skipped {printable(skipped.key)}: {printable(skipped.cause)}" for skipped in report.skipped]
    if report.num_skipped_before:
        lines.append(f"  skipped before and unchanged since: {counted(report.num_skipped_before, 'input')}; --retry-skipped tries again")
    if counts.skipped - report.num_skipped_before > len(report.skipped):
        lines.append(f"  all skipped inputs with their causes: sightline ledger --run {report.run_id}")
    if counts.gone > counts.pruned:
        lines.append(
            f"  gone from the source and still found: {counted(counts.gone - counts.pruned, 'item')}; --prune deletes what is gone"
        )
    if report.num_hidden:
        lines.append(
            f"  {counted(report.num_hidden, 'item')} of the collection may be in the part of the source that could not be read, "
            f"and {'is' if report.num_hidden == 1 else 'are'} kept, with --prune too"
        )
    if report.num_passed_over:
        lines.append(f"  passed over, being no picture: {counted(report.num_passed_over, 'file')}")
    return "\n".join(lines)
