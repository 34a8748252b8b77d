"""Comparing the catalogue with the files: what is missing, damaged, or referred to by nothing."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.errors import SchemaTooNew
from sightline.storage.catalogue import Catalogue, SegmentView
from sightline.storage.records import CollectionRecord, Finding, SegmentRecord, SegmentState, Severity
from sightline.storage.sealed_files import DamagedFile
from sightline.storage.segment import SegmentFiles, ascending_blocks, open_segment

_REPAIR = "`sightline verify --repair` gives the segment up; then index its sources again"
_REBUILD = "`sightline compact --force` builds the index again from the embeddings"
_BIAS = "`sightline hubness COLLECTION` computes the biases anew; until then none is taken off"
_PATCHES = "`sightline patches COLLECTION` makes them anew; until then searches are answered by similarity alone"
_UPGRADE = "upgrade Sightline to read it"
_SWEEP = "nothing: the next indexing run removes it"

_UNIT_TOLERANCE = 5e-3
"""fp16 keeps 11 bits: the length of a rounded unit vector is off by 5e-4 at the most."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with one segment."""

    what: str
    what_to_do: str
    severity: Severity = Severity.ERROR


def verify_collection(folder: Path, collection: CollectionRecord, catalogue: Catalogue) -> list[Finding]:
    """All that is wrong with the live segments of a collection and the items that point at them; reads every byte."""
    findings = []
    collection_view = catalogue.collection_view(collection.collection_id)
    bank_fingerprints = {bank.modality: bank.fingerprint for bank in collection_view.banks}
    for view in collection_view.segments:
        where = str(folder / view.segment.folder)
        for fault in _verify(folder, view, catalogue, bank_fingerprint=bank_fingerprints.get(view.segment.modality)):
            sources = catalogue.sources_of_segment(view.segment.segment_id) if fault.what_to_do == _REPAIR else ()
            what_to_do = fault.what_to_do.replace("COLLECTION", shlex.quote(collection.name))
            findings.append(Finding(fault.severity, fault.what, where, what_to_do, collection.name, sources))
    num_missing = catalogue.num_items_missing_embeddings(collection.collection_id)
    if num_missing:
        what = f"{num_missing:,} items have no embedding: their segment was given up"
        sources = catalogue.sources_missing_embeddings(collection.collection_id)
        where = f"collection {collection.name!r}"
        findings.append(Finding(Severity.ERROR, what, where, "index their sources again", collection.name, sources))
    return findings


def damaged_segments(folder: Path, collection: CollectionRecord, catalogue: Catalogue) -> list[str]:
    """The folders of the live segments whose embeddings or items are not what they should be; a damaged index is not among them."""
    views = catalogue.collection_view(collection.collection_id).segments
    return [
        view.segment.folder
        for view in views
        if any(fault.what_to_do == _REPAIR for fault in _verify(folder, view, catalogue, bank_fingerprint=None))
    ]


def verify_folders(folder: Path, catalogue: Catalogue, *, is_being_written: bool) -> list[Finding]:
    """Files that no row refers to and rows of segments that are not live; neither is wrong while a writer is at work."""
    if is_being_written:
        return []
    segments = catalogue.segments()
    known = {(str(s.collection_id), s.folder) for s in segments}
    findings = [_leftover(s, folder) for s in segments if s.state is not SegmentState.LIVE]
    unknown = [path for path in sorted(folder.glob("*/*")) if (path.parent.name, path.name) not in known]
    findings += [Finding(Severity.WARNING, "a segment that the catalogue doesn't know", str(path), _SWEEP) for path in unknown]
    return findings


def _leftover(segment: SegmentRecord, folder: Path) -> Finding:
    where = str(folder / str(segment.collection_id) / segment.folder)
    return Finding(Severity.WARNING, f"a segment left {segment.state} by a writer that was stopped", where, _SWEEP)


def _verify(folder: Path, view: SegmentView, catalogue: Catalogue, *, bank_fingerprint: str | None) -> Iterator[_Fault]:
    try:
        files = open_segment(folder / view.segment.folder, manifest_sha256=view.segment.manifest_sha256)
        files.check_rows()
    except FileNotFoundError as error:
        yield _Fault(f"{Path(error.filename).name} is missing", _REPAIR)
        return
    except SchemaTooNew:
        yield _Fault("a segment that was written by a newer Sightline", _UPGRADE)
        return
    except DamagedFile as error:
        yield _fault(error, _REPAIR)
        return
    if files.index_bytes is not None:
        try:
            files.checked_index_bytes()
        except DamagedFile as error:
            yield _fault(error, _REBUILD)
    try:
        files.check_patches()
    except DamagedFile as error:
        yield _fault(error, _PATCHES)
    if not _are_unit(files):
        yield _Fault("embeddings that are not of unit length", _REPAIR)
    if files.biases is not None and not np.isfinite(files.biases).all():
        yield _Fault("hubness biases that are no numbers", _REPAIR)
    if bank_fingerprint not in (None, files.manifest.bank_fingerprint):
        yield _Fault("its hubness biases are not from the collection's bank of queries", _BIAS, Severity.WARNING)
    yield from _verify_items(files, view, catalogue)


def _fault(error: DamagedFile, what_to_do: str) -> _Fault:
    return _Fault(f"{error.path.name} is damaged: {error.reason}", what_to_do)


def _verify_items(files: SegmentFiles, view: SegmentView, catalogue: Catalogue) -> Iterator[_Fault]:
    """Each row belongs to exactly one item or tombstone, and the other way round."""
    pointing = catalogue.item_ids_by_segment(view.segment.segment_id)
    claimed = np.sort(np.concatenate((pointing, view.dead_item_ids)))
    if len(view.dead_item_ids) != view.segment.num_tombstones:
        what = f"{len(view.dead_item_ids):,} tombstones where {view.segment.num_tombstones:,} were counted"
        yield _Fault(what, _REPAIR)
    if not np.array_equal(claimed, files.item_ids):
        rowless = len(np.setdiff1d(claimed, files.item_ids))
        ownerless = len(np.setdiff1d(files.item_ids, claimed))
        what = f"{rowless:,} items or tombstones have no row in it, {ownerless:,} of its rows belong to no item"
        yield _Fault(what, _REPAIR)


def _are_unit(files: SegmentFiles) -> bool:
    for block in ascending_blocks(files.num_rows):
        lengths = np.linalg.norm(files.embeddings[block].astype(np.float32), axis=1)
        if not np.all(np.abs(lengths - 1.0) <= _UNIT_TOLERANCE):  # a NaN fails the comparison as well
            return False
    return True
