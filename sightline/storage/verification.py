"""Comparing the catalogue with the files: what is missing, damaged, or referred to by nothing."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sightline.errors import CorruptSegment, SchemaTooNew
from sightline.storage.catalogue import Catalogue, SegmentView
from sightline.storage.records import CollectionRecord, Finding, SegmentRecord, SegmentState, Severity
from sightline.storage.segment import INDEX, SegmentFiles, ascending_blocks, open_segment

_REPAIR = "`sightline verify --repair` gives the segment up; index its sources again and its items are embedded anew"
_REBUILD = "`sightline compact --force` builds the index again from the embeddings"
_SWEEP = "nothing: the next indexing run removes it"

_UNIT_TOLERANCE = 5e-3
"""fp16 keeps 11 bits: the length of a rounded unit vector is off by 5e-4 at the most."""


def verify_collection(folder: Path, collection: CollectionRecord, catalogue: Catalogue) -> list[Finding]:
    """All that is wrong with the live segments of a collection and the items that point at them; reads every byte."""
    findings = [
        finding for view in catalogue.collection_view(collection.collection_id).segments for finding in _verify(folder, view, catalogue)
    ]
    missing = catalogue.item_ids_missing_embeddings(collection.collection_id)
    if missing:
        what = f"{len(missing):,} items have no embedding: their segment was given up"
        findings.append(Finding(Severity.ERROR, what, f"collection {collection.name!r}", "index their sources again"))
    return findings


def damaged_segments(folder: Path, collection: CollectionRecord, catalogue: Catalogue) -> list[str]:
    """The folders of the live segments whose embeddings or items are not what they should be; a damaged index is not among them."""
    views = catalogue.collection_view(collection.collection_id).segments
    return [view.segment.folder for view in views if any(f.what_to_do == _REPAIR for f in _verify(folder, view, catalogue))]


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


def _verify(folder: Path, view: SegmentView, catalogue: Catalogue) -> Iterator[Finding]:
    where = str(folder / view.segment.folder)
    try:
        files = open_segment(folder / view.segment.folder, manifest_sha256=view.segment.manifest_sha256)
        files.check(name for name in files.manifest.files if name != INDEX)
    except FileNotFoundError as error:
        yield Finding(Severity.ERROR, f"{error.filename} is missing", where, _REPAIR)
        return
    except (CorruptSegment, SchemaTooNew) as error:
        yield Finding(Severity.ERROR, str(error), where, _REPAIR)
        return
    if files.index_bytes is not None:
        try:
            files.checked_index_bytes()
        except CorruptSegment as error:
            yield Finding(Severity.ERROR, str(error), where, _REBUILD)
    if not _are_unit(files):
        yield Finding(Severity.ERROR, "embeddings that are not of unit length", where, _REPAIR)
    yield from _verify_items(files, view, catalogue)


def _verify_items(files: SegmentFiles, view: SegmentView, catalogue: Catalogue) -> Iterator[Finding]:
    """Each row belongs to exactly one item or tombstone, and the other way round."""
    where = str(files.folder)
    pointing = catalogue.item_ids_by_segment(view.segment.segment_id)
    claimed = np.sort(np.concatenate((pointing, view.dead_item_ids)))
    if len(view.dead_item_ids) != view.segment.num_tombstones:
        what = f"{len(view.dead_item_ids):,} tombstones where {view.segment.num_tombstones:,} were counted"
        yield Finding(Severity.ERROR, what, where, _REPAIR)
    if not np.array_equal(claimed, files.item_ids):
        rowless = len(np.setdiff1d(claimed, files.item_ids))
        ownerless = len(np.setdiff1d(files.item_ids, claimed))
        what = f"{rowless:,} items or tombstones have no row in it, {ownerless:,} of its rows belong to no item"
        yield Finding(Severity.ERROR, what, where, _REPAIR)


def _are_unit(files: SegmentFiles) -> bool:
    for block in ascending_blocks(files.num_rows):
        lengths = np.linalg.norm(files.embeddings[block].astype(np.float32), axis=1)
        if not np.all(np.abs(lengths - 1.0) <= _UNIT_TOLERANCE):  # a NaN fails the comparison as well
            return False
    return True
