"""`sightline hubness`: taking off how near some items are to every query."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.options import DeviceOption, EncoderOption, JsonOption, StoreOption
from api.cli.session import open_session
from indexer.wording import counted

if TYPE_CHECKING:
    from indexer.hubness import AppliedBank, HubnessReport
    from sightline.storage.records import BankRecord


def hubness(
    context: typer.Context,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")],
    *,
    queries: Annotated[
        Path | None, typer.Option("--queries", metavar="FILE", help="A bank of these texts: lines, or a table with a column `text`.")
    ] = None,
    captions: Annotated[bool, typer.Option("--captions", help="A bank of the captions of the collection's own pictures.")] = False,
    encoder_bank: Annotated[bool, typer.Option("--encoder-bank", help="The bank that the collection's encoder brings.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Take nothing off any more.")] = False,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Take off how near some items are to every query, by a bank of queries; without an option, tell what is taken off."""
    if (queries is not None) + captions + encoder_bank + off > 1:
        raise typer.BadParameter("--queries, --captions, --encoder-bank and --off exclude each other: choose one")
    from api.cli.console import write_json
    from indexer.hubness import OwnQueries

    chosen = queries or (OwnQueries.CAPTIONS if captions else OwnQueries.ENCODER if encoder_bank else None)
    with open_session(context, store=store, encoder=encoder, device=device) as sightline:
        if chosen is not None:
            from api.cli.progress import stage_progress

            with stage_progress() as advanced:
                report = sightline.correct_hubness(chosen, collection=collection, advanced=advanced)
            _tell_report(report, as_json=as_json)
            return
        if off:
            sightline.leave_hubness(collection=collection)
        banks = sightline.statistics(collection=collection).banks
    if as_json:
        write_json(banks)
    else:
        typer.echo(f"{collection}: {'; '.join(describe_banks(banks))}")


def describe_banks(banks: "Sequence[BankRecord]") -> list[str]:
    """What is taken off, a phrase a modality; one that says so where nothing is."""
    told = [_described(bank.modality, bank.strength, origin=bank.origin, num_queries=bank.num_queries) for bank in banks]
    return told or ["not taken off"]


def _described(modality: str, strength: float, *, origin: str, num_queries: int) -> str:
    bank = f"by a bank of {counted(num_queries, 'query', plural='queries')} ({origin})"
    if not strength:
        return f"{modality}s: not taken off, because it helps no query here, {bank}"
    return f"{modality}s: {strength:g} of the bias taken off, {bank}"


def _tell_report(report: "HubnessReport", *, as_json: bool) -> None:
    from api.cli.console import printable, write_json
    from api.cli.guard import complain

    if report.num_unreadable:
        were = "is no query and was" if report.num_unreadable == 1 else "are no query and were"
        complain(f"note: {counted(report.num_unreadable, 'line')} of the file {were} left out")
    if as_json:
        write_json(report)
        return
    for bank in report.banks:
        for line in _bank_lines(bank):
            typer.echo(printable(line))


def _bank_lines(bank: "AppliedBank") -> Iterator[str]:
    described = _described(bank.modality, bank.strength, origin=bank.origin, num_queries=bank.num_queries)
    yield f"{described}; {counted(bank.num_items, bank.modality)} biased"
    fitted = bank.fitted
    if fitted is None:
        yield "  nothing to measure with: too few captions that the bank does not hold"
        return
    yield (
        f"  hit rate@1 of {counted(fitted.num_queries, 'held-out caption')}: {fitted.hit_rate_at_1_before:.1f} before, "
        f"{fitted.hit_rate_at_1:.1f} now (MRR {fitted.mrr_before:.1f}, {fitted.mrr:.1f})"
    )
