"""Any sequence of commits, deletions, moves, compactions and reopenings finds what brute force over a dictionary finds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray

from sightline.storage.device_memory import DeviceMemory
from sightline.storage.patches import AddedPatches, ItemPatches, PatchBatch, PatchFormat, quantised_batch
from sightline.storage.records import BankRecord, Move, RowBiases, StoredBank
from sightline.storage.store import Store, StoreOptions
from sightline.types import ItemId, Modality
from tests.sightline.storage.synthetic import SIMILARITY_TOLERANCE, new_items, unit_rows

_DIM = 8
_VECTORS = unit_rows(32, _DIM)
_QUERIES = unit_rows(3, _DIM, seed=1)
_K = 5
_OPTIONS = StoreOptions(exact_max_rows=6)  # so that compaction builds an index: of one cell, which finds everything

_WEIGHT = 0.5
_BIASES = (0.3 * _VECTORS[:, 0], -0.6 * _VECTORS[:, 1])
"""Of the vectors, by the number of the bank that the pictures have; texts have none."""


_PATCHES = PatchFormat("fusion", 1, 2, 4)


def _patches(vectors: list[int]) -> PatchBatch:
    """What stands for patches of a picture: its vector, on a grid of two."""
    return quantised_batch(_VECTORS[vectors].reshape(-1, 2, 4), _PATCHES, priors_of=lambda patches: patches[:, 0, 0])


def _bank(number: int) -> StoredBank:
    return StoredBank(BankRecord(Modality.IMAGE, str(number), 1.0, 1, "made up"), b"")


_KEYS = st.sampled_from("abcdefghij")
_MODALITIES = st.sampled_from(Modality)


class StorageMachine(RuleBasedStateMachine):
    """A collection beside a dictionary that has done the same."""

    folder: Path
    database_url: str | None
    options = _OPTIONS

    def __init__(self) -> None:
        super().__init__()
        self._store = Store.open(self.folder, database_url=self.database_url, options=self.options)
        for old in self._store.collections():
            self._store.drop_collection(old.collection_id)
        self._cid = self._store.create_collection(
            "photos", encoder_name="made-up", encoder_fingerprint="f00", embedding_dim=_DIM, banks=[_bank(0)]
        ).collection_id
        self._bank_number = 0
        self._vectors: dict[ItemId, tuple[Modality, int]] = {}
        self._patched: set[ItemId] = set()
        self._ids: dict[str, ItemId] = {}
        self._used_ids: set[ItemId] = set()

    def teardown(self) -> None:
        """Give the connections back."""
        self._store.close()

    @rule(
        added=st.dictionaries(_KEYS, st.tuples(_MODALITIES, st.integers(0, 31)), min_size=1),
        deleted=st.sets(_KEYS, max_size=3),
        patched=st.sets(_KEYS),
    )
    def commit(self, added: dict[str, tuple[Modality, int]], deleted: set[str], patched: set[str]) -> None:
        """Add, replace and delete at once; some pictures have patches."""
        items = [new_items([key], modality=modality)[0] for key, (modality, _) in added.items()]
        vectors = [vector for _, vector in added.values()]
        embeddings = _VECTORS[vectors]
        biases = RowBiases(_BIASES[self._bank_number][vectors], {Modality.IMAGE: str(self._bank_number)})
        positions = [at for at, (key, (modality, _)) in enumerate(added.items()) if key in patched and modality is Modality.IMAGE]
        patches = AddedPatches(np.array(positions, dtype=np.int64), _patches([vectors[at] for at in positions])) if positions else None
        gone = [self._ids[key] for key in deleted if key in self._ids]
        with self._store.writer() as writer:
            ids = writer.commit(self._cid, added=items, embeddings=embeddings, biases=biases, patches=patches, deleted=gone)
        for key in deleted & self._ids.keys():
            del self._vectors[self._ids.pop(key)]
        for (key, (modality, vector)), item_id in zip(added.items(), ids, strict=True):
            assert item_id == self._ids.get(key, item_id)
            assert key in self._ids or item_id not in self._used_ids
            self._ids[key] = item_id
            self._used_ids.add(item_id)
            self._vectors[item_id] = modality, vector
            self._patched.discard(item_id)
        self._patched |= {ids[at] for at in positions}

    @rule(deleted=st.sets(_KEYS, min_size=1))
    def delete(self, deleted: set[str]) -> None:
        """Delete without adding."""
        with self._store.writer() as writer:
            writer.commit(self._cid, deleted=[self._ids[key] for key in deleted if key in self._ids])
        for key in deleted & self._ids.keys():
            del self._vectors[self._ids.pop(key)]

    @rule(pairs=st.lists(st.tuples(_KEYS, _KEYS), min_size=1, max_size=4, unique_by=(lambda pair: pair[0], lambda pair: pair[1])))
    def move(self, pairs: list[tuple[str, str]]) -> None:
        """Give items other keys, which may be each other's or those of items that are not moved."""
        moves = {key: target for key, target in pairs if key in self._ids}
        with self._store.writer() as writer:
            writer.commit(self._cid, moved=[Move(self._ids[key], target, "/moved", 1) for key, target in moves.items()])
        moved = {target: self._ids.pop(key) for key, target in moves.items()}
        for target in moved.keys() & self._ids.keys():
            del self._vectors[self._ids[target]]
        self._ids.update(moved)

    @rule(force=st.booleans())
    def compact(self, force: bool) -> None:
        """Merge everything."""
        with self._store.writer() as writer:
            writer.compact(self._cid, force=force)
        assert self._store.statistics(self._cid).num_tombstones == 0

    @rule(number=st.integers(0, 1))
    def replace_bank(self, number: int) -> None:
        """Bias all pictures by a bank, perhaps the one that they have."""

        def biases_of(embeddings: NDArray[np.float16]) -> NDArray[np.float32]:
            return np.asarray((0.3, -0.6)[number] * embeddings[:, number].astype(np.float32), dtype=np.float32)

        with self._store.writer() as writer:
            writer.replace_bank(self._cid, _bank(number), biases_of)
        self._bank_number = number

    @rule(most=st.integers(1, 4))
    def add_patches(self, most: int) -> None:
        """To some of the pictures of each segment that have none."""
        with self._store.writer() as writer:
            for segment in self._store.snapshot(self._cid).segments:
                missing = segment.unpatched_item_ids("fusion")[:most]
                if segment.modality is Modality.IMAGE and len(missing):
                    batch = _patches([self._vectors[item_id][1] for item_id in missing.tolist()])
                    writer.add_patches(self._cid, segment, _PATCHES, [ItemPatches(missing, batch)])
                    self._patched |= set(missing.tolist())

    @rule()
    def compact_if_worth_it(self) -> None:
        """Merge some."""
        with self._store.writer() as writer:
            writer.compact_if_worth_it(self._cid)

    @rule()
    def reopen(self) -> None:
        """As another process would."""
        self._store.close()
        self._store = Store.open(self.folder, database_url=self.database_url, options=self.options)

    @invariant()
    def the_catalogue_holds_what_was_committed(self) -> None:
        """Keys and ids."""
        assert {known.key: known.item_id for known in self._store.known_items(self._cid)} == self._ids

    @invariant()
    def searches_find_what_brute_force_finds(self) -> None:
        """What they are ordered by, in each modality, with and without a filter, an index and a bias taken off."""
        snapshot = self._store.snapshot(self._cid)
        some = {item_id for number, item_id in enumerate(sorted(self._vectors)) if number % 2}
        for modality in (None, *Modality):
            for allowed in (None, some):
                ids = None if allowed is None else np.array(sorted(allowed), dtype=np.int64)
                for weight in (0.0, _WEIGHT):
                    expected = self._best(modality, allowed, weight=weight)
                    for exact in (False, True):
                        found = snapshot.search(_QUERIES, _K, modality=modality, allowed=ids, exact=exact, bias_weight=weight)
                        adjusted = np.array([[each.adjusted_similarity for each in candidates] for candidates in found])
                        assert adjusted.shape == expected.shape
                        np.testing.assert_allclose(adjusted, expected, atol=SIMILARITY_TOLERANCE)

    def _best(self, modality: Modality | None, allowed: set[ItemId] | None, *, weight: float) -> NDArray[np.float32]:
        chosen = [
            (vector, _BIASES[self._bank_number][vector] if its_modality is Modality.IMAGE else 0.0)
            for item_id, (its_modality, vector) in self._vectors.items()
            if modality in (None, its_modality) and (allowed is None or item_id in allowed)
        ]
        rows = _VECTORS[[vector for vector, _ in chosen]].reshape(-1, _DIM)
        taken_off = np.array([weight * bias for _, bias in chosen], dtype=np.float32)
        return -np.sort(-(_QUERIES @ rows.T - taken_off), axis=1)[:, :_K]

    @invariant()
    def each_picture_has_the_patches_that_it_was_given(self) -> None:
        """Its own, and no other has any."""
        snapshot, living = self._store.snapshot(self._cid), sorted(self._vectors)
        has_some = snapshot.has_patches(np.array(living, dtype=np.int64), fusion_fingerprint="fusion")
        patched = [item_id for item_id in living if item_id in self._patched]
        assert [item_id for item_id, has in zip(living, has_some, strict=True) if has] == patched
        if patched:
            found = snapshot.patches(np.array(patched), fusion_fingerprint="fusion")
            expected = _patches([self._vectors[item_id][1] for item_id in patched])
            np.testing.assert_array_equal(found.dequantised(), expected.dequantised())
            np.testing.assert_array_equal(found.priors, expected.priors)

    @invariant()
    def files_and_catalogue_match(self) -> None:
        """No leftovers either."""
        assert self._store.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("searched_by", ["the processor", "a device"])
def test_storage_does_what_a_dictionary_does(tmp_path: Path, database_url: str | None, searched_by: str) -> None:
    class OneStore(StorageMachine):
        folder = tmp_path / "store"

    OneStore.database_url = database_url
    if searched_by == "a device":
        OneStore.options = replace(_OPTIONS, device_memory=DeviceMemory("cpu", budget_bytes=10**6, min_rows=1))
    bounds = settings(max_examples=10, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(OneStore, settings=bounds)
