"""Any sequence of commits, deletions, moves, compactions and reopenings finds what brute force over a dictionary finds."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from numpy.typing import NDArray

from sightline.storage.records import Move
from sightline.storage.store import Store, StoreOptions
from sightline.types import ItemId, Modality
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import SIMILARITY_TOLERANCE, best_similarities, new_items, similarities, unit_rows

_DIM = 8
_VECTORS = unit_rows(32, _DIM)
_QUERIES = unit_rows(3, _DIM, seed=1)
_K = 5
_OPTIONS = StoreOptions(exact_max_rows=6)  # so that compaction builds an index: of one cell, which finds everything

_KEYS = st.sampled_from("abcdefghij")
_MODALITIES = st.sampled_from(Modality)


class StorageMachine(RuleBasedStateMachine):
    """A collection beside a dictionary that has done the same."""

    folder: Path
    database_url: str | None

    def __init__(self) -> None:
        super().__init__()
        self._store = Store.open(self.folder, database_url=self.database_url, options=_OPTIONS)
        for old in self._store.collections():
            self._store.drop_collection(old.collection_id)
        self._cid = make_collection(self._store, dim=_DIM).collection_id
        self._vectors: dict[ItemId, tuple[Modality, NDArray[np.float32]]] = {}
        self._ids: dict[str, ItemId] = {}
        self._used_ids: set[ItemId] = set()

    def teardown(self) -> None:
        """Give the connections back."""
        self._store.close()

    @rule(added=st.dictionaries(_KEYS, st.tuples(_MODALITIES, st.integers(0, 31)), min_size=1), deleted=st.sets(_KEYS, max_size=3))
    def commit(self, added: dict[str, tuple[Modality, int]], deleted: set[str]) -> None:
        """Add, replace and delete at once."""
        items = [new_items([key], modality=modality)[0] for key, (modality, _) in added.items()]
        embeddings = _VECTORS[[vector for _, vector in added.values()]]
        gone = [self._ids[key] for key in deleted if key in self._ids]
        with self._store.writer() as writer:
            ids = writer.commit(self._cid, added=items, embeddings=embeddings, deleted=gone)
        for key in deleted & self._ids.keys():
            del self._vectors[self._ids.pop(key)]
        for (key, (modality, vector)), item_id in zip(added.items(), ids, strict=True):
            assert item_id == self._ids.get(key, item_id)
            assert key in self._ids or item_id not in self._used_ids
            self._ids[key] = item_id
            self._used_ids.add(item_id)
            self._vectors[item_id] = modality, _VECTORS[vector]

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

    @rule()
    def compact_if_worth_it(self) -> None:
        """Merge some."""
        with self._store.writer() as writer:
            writer.compact_if_worth_it(self._cid)

    @rule()
    def reopen(self) -> None:
        """As another process would."""
        self._store.close()
        self._store = Store.open(self.folder, database_url=self.database_url, options=_OPTIONS)

    @invariant()
    def the_catalogue_holds_what_was_committed(self) -> None:
        """Keys and ids."""
        assert {known.key: known.item_id for known in self._store.known_items(self._cid)} == self._ids

    @invariant()
    def searches_find_what_brute_force_finds(self) -> None:
        """Similarities, in each modality, with and without a filter and an index."""
        snapshot = self._store.snapshot(self._cid)
        some = {item_id for number, item_id in enumerate(sorted(self._vectors)) if number % 2}
        for modality in (None, *Modality):
            for allowed in (None, some):
                expected = self._best(modality, allowed)
                for exact in (False, True):
                    ids = None if allowed is None else np.array(sorted(allowed), dtype=np.int64)
                    found = snapshot.search(_QUERIES, _K, modality=modality, allowed=ids, exact=exact)
                    assert np.array(similarities(found)).shape == expected.shape
                    np.testing.assert_allclose(similarities(found), expected, atol=SIMILARITY_TOLERANCE)

    def _best(self, modality: Modality | None, allowed: set[ItemId] | None) -> NDArray[np.float32]:
        rows = [
            vector
            for item_id, (its_modality, vector) in self._vectors.items()
            if modality in (None, its_modality) and (allowed is None or item_id in allowed)
        ]
        return best_similarities(np.array(rows, dtype=np.float32).reshape(-1, _DIM), _QUERIES, _K)

    @invariant()
    def files_and_catalogue_match(self) -> None:
        """No leftovers either."""
        assert self._store.verify() == []


@pytest.mark.slow
def test_storage_does_what_a_dictionary_does(tmp_path: Path, database_url: str | None) -> None:
    class OneStore(StorageMachine):
        folder = tmp_path / "store"

    OneStore.database_url = database_url
    bounds = settings(max_examples=10, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(OneStore, settings=bounds)
