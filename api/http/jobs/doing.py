"""What each kind of job does, through the same doors as the command line."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from api.http.decoding import PictureDecoder
from api.http.fetching import Fetcher
from api.http.jobs.reporting import Reporter
from api.http.jobs.roots import ConfinedSource, require_within
from api.http.jobs.specs import (
    CompactionExtent,
    CompactSpec,
    HubnessSpec,
    IndexSpec,
    Order,
    PatchesSpec,
    RebuildSpec,
    UploadSpec,
    VerifySpec,
)
from api.http.problems import kind_of
from api.http.uploads.batches import Batch
from api.http.uploads.indexing import BatchIndexer, decode_in, refuse_to_fetch
from api.http.wording import over_http, sentence_of
from api.library import Sightline
from indexer.sources import open_source
from indexer.tuning import tuning_queries
from indexer.upserting import ItemOutcome, Outcome, note_outcomes
from sightline.locations import uploads_folder
from sightline.types import JsonObject

if TYPE_CHECKING:
    from indexer.report import IndexReport

_MAX_FINDINGS = 1000


def do_job(sightline: Sightline, order: Order, reporter: Reporter) -> JsonObject:
    """Do it and give what a person wants to know of it afterwards. Raises errors of the tree; `KeyboardInterrupt` goes through."""
    match order.spec:
        case IndexSpec() as spec:
            return _index(sightline, spec, roots=order.source_roots, reporter=reporter)
        case CompactSpec() as spec:
            return _compact(sightline, spec, reporter)
        case RebuildSpec() as spec:
            reporter.note(stage="rebuilding")
            return asdict(sightline.compact(collection=spec.collection, force=True))
        case VerifySpec() as spec:
            return _verify(sightline, spec, reporter)
        case PatchesSpec() as spec:
            return _add_patches(sightline, spec, reporter)
        case HubnessSpec() as spec:
            return _correct_hubness(sightline, spec, roots=order.source_roots, reporter=reporter)
        case UploadSpec() as spec:
            return _index_upload(sightline, order, spec, reporter)


def _index(sightline: Sightline, spec: IndexSpec, *, roots: Sequence[Path], reporter: Reporter) -> JsonObject:
    require_within(spec.source, roots, store=sightline.store.folder)  # the settings may have changed since it was queued
    source = ConfinedSource(open_source(spec.source, spec.source_kind), roots)
    report = sightline.index(
        source,
        collection=spec.collection,
        prune=spec.prune,
        retry_skipped=spec.retry_skipped,
        patches=spec.patches,
        progress=reporter,
    )
    return _told(report)


def _told(report: "IndexReport") -> JsonObject:
    return {
        "run_id": report.run_id,
        **asdict(report.counts),
        "num_hidden": report.num_hidden,
        "num_passed_over": report.num_passed_over,
        "duration_s": round(report.duration_s, 2),
    }


def _verify(sightline: Sightline, spec: VerifySpec, reporter: Reporter) -> JsonObject:
    repaired = {}
    if spec.repair:
        reporter.note(stage="repairing")
        repaired = {"repaired": asdict(sightline.repair())}
    reporter.note(stage="verifying")
    findings = sightline.verify(collection=spec.collection)
    told = [{**asdict(finding), "what_to_do": over_http(finding.what_to_do)} for finding in findings[:_MAX_FINDINGS]]
    return {**repaired, "num_findings": len(findings), "findings": told}


def _add_patches(sightline: Sightline, spec: PatchesSpec, reporter: Reporter) -> JsonObject:
    def advanced(what: str, num_done: int, num_all: int) -> None:
        reporter.note(stage=what, num_done=num_done, num_to_do=num_all)

    report = sightline.add_patches(collection=spec.collection, progress=advanced, committed=reporter.committed)
    return {
        "num_patched": report.num_patched,
        "num_had_patches": report.num_had_patches,
        "num_damaged": report.num_damaged,
        "num_skipped": len(report.skipped),
    }


def _correct_hubness(sightline: Sightline, spec: HubnessSpec, *, roots: Sequence[Path], reporter: Reporter) -> JsonObject:
    def advanced(what: str, num_done: int, num_all: int) -> None:
        reporter.note(stage=what, num_done=num_done, num_to_do=num_all)

    if spec.source is not None:
        require_within(spec.source, roots, store=sightline.store.folder)
    queries = spec.queries or Path(spec.source or "")
    report = sightline.correct_hubness(queries, collection=spec.collection, advanced=advanced)
    return {"num_unreadable": report.num_unreadable, "banks": [asdict(bank) for bank in report.banks]}


def _compact(sightline: Sightline, spec: CompactSpec, reporter: Reporter) -> JsonObject:
    reporter.note(stage="compacting")
    if spec.extent is CompactionExtent.ALL:
        return asdict(sightline.compact(collection=spec.collection))
    record = sightline.store.collection(spec.collection)
    queries = tuning_queries(sightline.store, record, lambda: sightline.encoders.for_collection(record))
    with sightline.store.writer() as writer:
        return asdict(writer.compact_if_worth_it(record.collection_id, queries=queries))


def _index_upload(sightline: Sightline, order: Order, spec: UploadSpec, reporter: Reporter) -> JsonObject:
    record = sightline.store.collection(spec.collection)
    batch = Batch.named(uploads_folder(sightline.store.folder, collection_id=record.collection_id), spec.batch)
    decoder = PictureDecoder(order.decoding, num_processes=1)  # ends what it started when it is gone
    indexer = BatchIndexer(
        sightline,
        record,
        decode=decode_in(decoder, image_side=sightline.encoders.for_collection(record).image_side),
        fetch=refuse_to_fetch if order.fetching is None else Fetcher(order.fetching).fetch,
        max_picture_bytes=order.max_picture_bytes,
    )
    outcomes: list[ItemOutcome] = []
    num_failed = 0
    for committed in indexer.index(batch, wait_s=0.0):
        outcomes += committed
        num_failed += sum(each.error is not None for each in committed)
        reporter.note(stage="indexing", num_done=len(outcomes), num_skipped=num_failed, num_committed=len(outcomes))
    failed = [{"key": each.key, "error": kind_of(each.error), "detail": sentence_of(each.error)} for each in outcomes if each.error]
    return {  # the batch stays until the service has heard that all of it is done: see `remove_batch`
        "run_id": note_outcomes(sightline.store, record, outcomes),
        **{f"num_{outcome}": sum(each.outcome is outcome for each in outcomes) for outcome in Outcome},
        "failed": failed[:_MAX_FINDINGS],
    }
