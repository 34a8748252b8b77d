"""One commit: what it changes, where its items go, and the transaction that makes it true."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from sightline.errors import InvalidInput
from sightline.storage import catalogue_writes as writes
from sightline.storage.catalogue_writes import PlacedItem
from sightline.storage.patches import AddedPatches
from sightline.storage.records import LedgerEntry, Move, NewItem, RowBiases, RunCounts, Touch
from sightline.storage.segment import Manifest, SegmentBuilder
from sightline.types import CollectionId, Embeddings, ItemId, ItemIds, Modality, RunId, SegmentId

SealedSegments = Mapping[SegmentId, tuple[Manifest, str]]
"""Manifests of segments whose files are on disk, and their SHA-256."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does; see `Writer.commit`."""

    run_id: RunId | None
    added: Sequence[NewItem]
    embeddings: Embeddings | None
    biases: RowBiases | None
    patches: AddedPatches | None
    moved: Sequence[Move]
    touched: Sequence[Touch]
    skipped: Sequence[LedgerEntry]
    deleted: Sequence[ItemId]
    counts: RunCounts | None
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a commit's items go, decided before their files are written."""

    placed: tuple[PlacedItem, ...]  # in the order of `added`
    replaced: frozenset[ItemId]  # ids that keep their item and get another row
    num_fresh_ids: int
    removed: tuple[ItemId, ...]  # deleted, and those whose key a move takes over
    folders: dict[Modality, str]


def check_change(change: Change, *, embedding_dim: int, bank_fingerprints: Mapping[Modality, str]) -> None:
    """Raises `InvalidInput` for what does not fit together, or not into the collection."""
    keys = [item.key for item in change.added] + [move.key for move in change.moved]
    if len(set(keys)) != len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise InvalidInput(f"the key {twice!r} is given twice in one commit; a key is unique in its collection")
    num_added = len(change.added)
    shape = (0, embedding_dim) if change.embeddings is None else change.embeddings.shape
    if shape != (num_added, embedding_dim):
        raise InvalidInput(f"{num_added} items need embeddings of shape ({num_added}, {embedding_dim}), not {shape}")
    if change.embeddings is not None and not np.isfinite(change.embeddings).all():
        raise InvalidInput("an embedding holds a value that is not a number; the encoder is damaged or overflows in this precision")
    _check_biases(change, bank_fingerprints)
    _check_patches(change)


def _check_biases(change: Change, bank_fingerprints: Mapping[Modality, str]) -> None:
    """Every item whose modality has a bank comes with its bias from that very bank: a ranking by two would be none."""
    given = {} if change.biases is None else change.biases.fingerprint_by_modality
    for modality in {item.modality for item in change.added} & bank_fingerprints.keys():
        if given.get(modality) != bank_fingerprints[modality]:
            raise InvalidInput(
                f"{modality}s of this collection need hubness biases from its bank of queries {bank_fingerprints[modality][:12]}, "
                f"and these have them from {given[modality][:12] if modality in given else 'none'}"
            )
    if change.biases is not None:
        values = change.biases.values
        if values.shape != (len(change.added),) or not np.isfinite(values).all():
            raise InvalidInput(f"{len(change.added)} items need a hubness bias each that is a number, not an array of shape {values.shape}")


def _check_patches(change: Change) -> None:
    """Patches are of pictures that the commit adds, of each once."""
    if change.patches is None:
        return
    positions = change.patches.positions
    if len(positions) != len(change.patches.batch) or len(np.unique(positions)) != len(positions):
        raise InvalidInput(f"{len(change.patches.batch)} pictures have patches, and {len(np.unique(positions))} items are named for them")
    if any(not 0 <= at < len(change.added) or change.added[at].modality is not Modality.IMAGE for at in positions.tolist()):
        raise InvalidInput("patches are given for what is no picture among the items that are added")


def write_segments(folder: Path, change: Change, *, placement: Placement, bank_fingerprints: Mapping[Modality, str]) -> SealedSegments:
    """The files of the announced segments below the collection's `folder`, rows by ascending item id."""
    sealed = {}
    for modality, name in placement.folders.items():
        positions = np.array([n for n, placed in enumerate(placement.placed) if placed.item.modality is modality], dtype=np.int64)
        item_ids = np.array([placement.placed[n].item_id for n in positions], dtype=np.int64)
        order = np.argsort(item_ids)
        builder = _new_builder(folder / name, change, modality=modality, bank_fingerprint=bank_fingerprints.get(modality))
        try:
            _append(builder, change, positions=positions[order], item_ids=item_ids[order], is_biased=modality in bank_fingerprints)
            sealed[placement.placed[positions[0]].segment_id] = builder.seal()
        except BaseException:
            builder.abandon()
            raise
    return sealed


def _new_builder(folder: Path, change: Change, *, modality: Modality, bank_fingerprint: str | None) -> SegmentBuilder:
    assert change.embeddings is not None
    has_patches = change.patches is not None and modality is Modality.IMAGE
    return SegmentBuilder(
        folder,
        modality=modality,
        embedding_dim=change.embeddings.shape[1],
        bank_fingerprint=bank_fingerprint,
        patch_format=change.patches.batch.format if change.patches is not None and has_patches else None,
    )


def _append(builder: SegmentBuilder, change: Change, *, positions: NDArray[np.int64], item_ids: ItemIds, is_biased: bool) -> None:
    """The items at `positions`, which are in the order of `item_ids`."""
    assert change.embeddings is not None
    biases = change.biases.values[positions] if change.biases is not None and is_biased else None
    builder.append(item_ids, change.embeddings[positions].astype(np.float16), biases)
    if builder.takes_patches and change.patches is not None:
        row_by_position = {position: row for row, position in enumerate(positions.tolist())}
        rows = np.array([row_by_position[position] for position in change.patches.positions.tolist()], dtype=np.int64)
        order = np.argsort(rows)
        builder.append_patches(rows[order], change.patches.batch.at(order))


def apply_change(
    connection: Connection, collection_id: CollectionId, change: Change, *, placement: Placement, sealed: SealedSegments
) -> None:
    """The transaction that makes a commit true. The order keeps keys unique at every statement."""
    replacing = [placed for placed in placement.placed if placed.item_id in placement.replaced]
    inserting = [placed for placed in placement.placed if placed.item_id not in placement.replaced]
    writes.bury_rows(connection, collection_id, [*placement.removed, *placement.replaced])
    writes.delete_items(connection, collection_id, placement.removed)
    writes.move_items(connection, change.moved)
    writes.touch_items(connection, change.touched)
    writes.replace_items(connection, replacing)
    writes.take_item_ids(connection, placement.num_fresh_ids)
    writes.insert_items(connection, collection_id, inserting)
    for segment_id, (manifest, sha256) in sealed.items():
        writes.make_live(connection, segment_id, manifest, manifest_sha256=sha256)
    settled = [*(item.key for item in change.added), *(move.key for move in change.moved), *(entry.key for entry in change.skipped)]
    writes.resolve_ledger(connection, collection_id, settled)
    writes.add_ledger_entries(connection, collection_id, change.skipped)
    if change.run_id is not None:
        writes.update_run(connection, change.run_id, counts=change.counts, cursor=change.cursor)
    if placement.placed or placement.removed:
        writes.bump_generation(connection, collection_id)
