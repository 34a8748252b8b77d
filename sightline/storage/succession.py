"""Successors of segments: the same rows with other files beside them. What does not change is linked, not copied.

A segment is immutable, so what is to be added to it, or computed anew, goes into a segment of its own with the same rows, which takes the
former one's place in the catalogue. Links cost no room and no reading; seals are those of the former manifest, so damage is found as ever.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.errors import InvalidInput
from sightline.storage.compaction import IndexOptions, build_planned_index
from sightline.storage.index_plan import TuningQueries
from sightline.storage.live_segment import LiveSegment
from sightline.storage.patch_files import PATCH_FILES, RECORDS_AT_ONCE, PatchWriter, StoredPatches
from sightline.storage.patches import ItemPatches, PatchFormat
from sightline.storage.records import BankRecord
from sightline.storage.sealed_files import DamagedFile, seal_existing, translated_disk_errors, write_synced
from sightline.storage.segment import HUBNESS_BIAS, INDEX, Manifest, SegmentFiles, ascending_blocks, remove_segment, write_manifest
from sightline.storage.segment_rows import SegmentRows

BiasesOf = Callable[[NDArray[np.float16]], NDArray[np.float32]]
"""(rows, embedding_dim) as stored -> (rows,) hubness biases."""


def rebiased_segment(
    folder: Path, former: LiveSegment, biases_of: BiasesOf, *, bank: BankRecord, options: IndexOptions, tuning: TuningQueries | None
) -> tuple[Manifest, str]:
    """Write a successor in `folder` whose biases are from `bank`, with the index that the planner chooses, unless `tuning` is None.

    Returns its manifest and that one's SHA-256. Raises `CorruptSegment` before it writes where `former` is damaged, `OutOfSpace`.
    """
    files, manifest = former.files, former.files.manifest
    files.check_rows()
    try:
        with translated_disk_errors(folder):
            kept = manifest.files.keys() - {HUBNESS_BIAS, INDEX}
            _link(files.folder, folder, kept)
            biases = np.concatenate([biases_of(files.embeddings[block]) for block in ascending_blocks(files.num_rows)])
            if not np.isfinite(biases).all():
                raise InvalidInput(f"the bank {bank.fingerprint[:12]} gives hubness biases that are no numbers")
            seals = {name: manifest.files[name] for name in kept}
            seals[HUBNESS_BIAS] = write_synced(folder / HUBNESS_BIAS, biases.astype("<f4").tobytes())
        index = None
        if tuning is not None:
            index = build_planned_index(folder, SegmentRows(files.embeddings, biases), options=options, tuning=tuning)
        with translated_disk_errors(folder):
            if index is not None:
                seals[INDEX] = seal_existing(folder / INDEX)
            successor = replace(manifest, files=seals, index=index, bank_fingerprint=bank.fingerprint)
            return successor, write_manifest(folder, successor)
    except BaseException:
        remove_segment(folder)
        raise


def patched_segment(folder: Path, former: SegmentFiles, patch_format: PatchFormat, blocks: Iterable[ItemPatches]) -> tuple[Manifest, str]:
    """Write a successor in `folder` with the patches of `blocks` and those of the same format that `former` has for other rows.

    Where the patches of `former` are damaged none is taken over: copied they would look whole.

    Returns its manifest and that one's SHA-256. Raises `InvalidInput` for items that are not in the segment or come twice, `OutOfSpace`.
    """
    manifest = former.manifest
    try:
        with translated_disk_errors(folder):
            kept = manifest.files.keys() - PATCH_FILES
            _link(former.folder, folder, kept)
            writer = PatchWriter(folder, patch_format)
            try:
                _write_patches(writer, former, blocks)
                patch_seals = writer.seal(num_rows=former.num_rows)
            finally:
                writer.abandon()
            seals = {name: manifest.files[name] for name in kept} | patch_seals
            successor = replace(manifest, files=seals, patches=patch_format if patch_seals else None)
            return successor, write_manifest(folder, successor)
    except BaseException:
        remove_segment(folder)
        raise


def _write_patches(writer: PatchWriter, former: SegmentFiles, blocks: Iterable[ItemPatches]) -> None:
    is_written = np.zeros(former.num_rows, dtype=np.bool_)
    for block in blocks:
        rows = former.rows_of(block.item_ids)
        if len(rows) != len(block.batch) or is_written[rows].any() or len(np.unique(rows)) != len(rows):
            raise InvalidInput(f"patches of {len(block.batch)} pictures that are not in the segment, or come twice")
        if block.batch.format != writer.format:
            raise InvalidInput(f"patches of the format {block.batch.format} among those of {writer.format}")
        writer.append(rows, block.batch)
        is_written[rows] = True
    before = former.patches
    if isinstance(before, StoredPatches) and before.format == writer.format and not former.has_damaged_patches():
        left = before.rows[~is_written[before.rows]]
        for start in range(0, len(left), RECORDS_AT_ONCE):
            rows_left = left[start : start + RECORDS_AT_ONCE]
            writer.append(rows_left, before.gather(rows_left))


def _link(source: Path, target: Path, names: Iterable[str]) -> None:
    """Give the files of one folder to another one, which is made; copies where the file system has no links."""
    target.mkdir(parents=True)
    for name in sorted(names):
        try:
            os.link(source / name, target / name)
        except FileNotFoundError as error:
            raise DamagedFile(source / name, reason="it is missing, and the manifest names it") from error
        except OSError:
            shutil.copyfile(source / name, target / name)
            seal_existing(target / name)
