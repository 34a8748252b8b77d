"""Stores that hold segments on a torch device: what they find, what their plans say, and what becomes of the memory."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sightline.storage.device_memory import DeviceMemory, device_memory
from sightline.storage.records import CollectionRecord
from sightline.storage.search_plan import Method
from sightline.storage.segment_rows import SegmentRows
from sightline.storage.snapshot import Candidate, Snapshot
from sightline.storage.store import Store, StoreOptions
from sightline.types import ItemId, Modality
from tests.sightline.storage.conftest import DIM, make_collection
from tests.sightline.storage.synthetic import new_items, unit_rows
from tests.sightline.storage.test_hubness import made_up_bank, row_biases

_NUM_ITEMS = 6000
_XQ = unit_rows(7, DIM, seed=5)

_SUM_TOLERANCE = 1e-5
"""The same numbers, summed in another order."""


def enough_memory(device: str = "cpu") -> DeviceMemory:
    return DeviceMemory(device, budget_bytes=10**9, min_rows=1)


@dataclass(frozen=True)
class Readers:
    """One store, open twice."""

    plain: Store
    on_device: Store
    collection: CollectionRecord
    ids: list[ItemId]

    def snapshots(self) -> tuple[Snapshot, Snapshot]:
        cid = self.collection.collection_id
        return self.plain.snapshot(cid), self.on_device.snapshot(cid)

    def check(self, *, allowed: NDArray[np.int64] | None, weight: float) -> None:
        """What the device finds is what exact search by the processor does."""
        plain, on_device = self.snapshots()
        expected = plain.search(_XQ, 10, modality=Modality.IMAGE, allowed=allowed, exact=True, bias_weight=weight)
        found = on_device.search(_XQ, 10, modality=Modality.IMAGE, allowed=allowed, bias_weight=weight)
        assert found_ids(found) == found_ids(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(numbers(one), numbers(other), atol=_SUM_TOLERANCE)


def found_ids(found: list[list[Candidate]]) -> list[list[int]]:
    return [[each.item_id for each in candidates] for candidates in found]


def numbers(candidates: list[Candidate]) -> list[tuple[float, float]]:
    return [(each.similarity, each.adjusted_similarity) for each in candidates]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def readers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Readers]:
    """A collection with a bank, an index over most of its rows, tombstones in both of its segments; on SQLite, since SQL plays no part."""
    with (
        Store.open(tmp_path, options=StoreOptions(exact_max_rows=2500)) as plain,
        Store.open(tmp_path, options=StoreOptions(exact_max_rows=2500, device_memory=enough_memory(request.param))) as on_device,
    ):
        collection = plain.create_collection(
            "photos", encoder_name="made-up", encoder_fingerprint="f00", embedding_dim=DIM, banks=[made_up_bank()]
        )
        rows = unit_rows(_NUM_ITEMS, DIM)
        ids: list[ItemId] = []
        with plain.writer() as writer:
            for first, last in ((0, 5000), (5000, _NUM_ITEMS)):
                embeddings = rows[first:last]
                added = new_items(range(first, last))
                ids += writer.commit(collection.collection_id, added=added, embeddings=embeddings, biases=row_biases(embeddings))
                if not first:
                    writer.compact(collection.collection_id, force=True)
            writer.commit(collection.collection_id, deleted=ids[::9])
        yield Readers(plain, on_device, collection, ids)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("share", [None, 0.0, 0.02, 0.6, 1.0])
def test_a_snapshot_on_a_device_answers_as_one_without(readers: Readers, share: float | None, weight: float) -> None:
    allowed = None
    if share is not None:
        allowed = np.array(readers.ids)[np.random.default_rng(3).random(_NUM_ITEMS) < share]
    readers.check(allowed=allowed, weight=weight)


def test_commits_and_compactions_are_followed(readers: Readers) -> None:
    collection_id = readers.collection.collection_id
    readers.check(allowed=None, weight=0.5)
    with readers.plain.writer() as writer:
        writer.commit(collection_id, deleted=readers.ids[1:4000:9])
        readers.check(allowed=None, weight=0.5)
        more = unit_rows(30, DIM, seed=8)
        writer.commit(collection_id, added=new_items(range(5990, 6020)), embeddings=more, biases=row_biases(more))
        readers.check(allowed=None, weight=0.5)
        writer.compact(collection_id, force=True)
    readers.check(allowed=None, weight=0.5)


def test_the_plan_says_that_a_gpu_searches(readers: Readers) -> None:
    plain, snapshot = readers.snapshots()
    assert not plain.prepare(modality=None).plan.is_exact
    plan = snapshot.prepare(modality=None).plan
    assert plan.is_exact
    assert str(plan) == "exact on the GPU over 5,333 rows in 2 segments"
    some = snapshot.prepare(modality=None, allowed=np.array(readers.ids[:4000])).plan
    assert str(some) == "exact on the GPU over 3,555 rows (what the filter passes)"
    few = snapshot.prepare(modality=None, allowed=np.array(readers.ids[:100])).plan
    assert [segment.method for segment in few.segments] == [Method.SELECTED]


def test_the_oracle_stays_with_the_processor(readers: Readers) -> None:
    _, snapshot = readers.snapshots()
    plan = snapshot.prepare(modality=None, exact=True).plan
    assert {segment.method for segment in plan.segments} == {Method.EXACT}


def test_memory_is_told_where_it_is(readers: Readers) -> None:
    store, collection_id = readers.on_device, readers.collection.collection_id
    readers.snapshots()
    assert (store.memory_bytes(collection_id), store.device_memory_bytes(collection_id)) == (0, 0)
    readers.check(allowed=None, weight=0.5)
    assert store.memory_bytes(collection_id) == 0  # no index was loaded
    assert store.device_memory_bytes(collection_id) == _NUM_ITEMS * (2 * 32 + 1)  # 16 dimensions and the bias make 32; a mask


def test_what_fits_no_more_fits_again_once_something_is_gone() -> None:
    memory = DeviceMemory("cpu", budget_bytes=1500 * (2 * DIM + 1), min_rows=300)
    some, others, few = (SegmentRows(unit_rows(num_rows).astype(np.float16)) for num_rows in (1000, 1001, 299))
    index = memory.load(some)
    assert index is not None
    assert memory.load(others) is None
    assert memory.load(few) is None  # not worth it
    del index
    gc.collect()
    assert memory.load(others) is not None


def test_a_store_whose_rows_fit_in_part_uses_both(tmp_path: Path) -> None:
    memory = DeviceMemory("cpu", budget_bytes=1500 * (2 * DIM + 1), min_rows=300)
    with Store.open(tmp_path) as plain, Store.open(tmp_path, options=StoreOptions(device_memory=memory)) as mixed:
        collection_id = make_collection(plain).collection_id
        with plain.writer() as writer:
            for first in (0, 1000):
                added = new_items(range(first, first + 1000))
                writer.commit(collection_id, added=added, embeddings=unit_rows(1000, seed=first))
        snapshot = mixed.snapshot(collection_id)
        assert [segment.method for segment in snapshot.prepare(modality=None).plan.segments] == [Method.DEVICE, Method.EXACT]
        found = snapshot.search(_XQ, 10, modality=None)
        assert found_ids(found) == found_ids(plain.snapshot(collection_id).search(_XQ, 10, modality=None))


def test_a_device_without_room_is_tried_once_and_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "empty", fail)
    with Store.open(tmp_path, options=StoreOptions(device_memory=enough_memory())) as store:
        collection_id = make_collection(store).collection_id
        with store.writer() as writer:
            (first, *_) = writer.commit(collection_id, added=new_items(range(100)), embeddings=unit_rows(100))
        snapshot = store.snapshot(collection_id)
        for _ in range(2):
            assert str(snapshot.prepare(modality=None).plan) == "exact over 100 rows"
            assert snapshot.search(unit_rows(1), 1, modality=None)[0][0].item_id == first
    assert [message for message in caplog.messages if "GPU" in message] == [
        f"segment {snapshot.segments[0].files.folder.name} is not searched on the GPU: CUDA out of memory."
    ]


@pytest.mark.parametrize(("name", "is_some"), [("auto", True), ("cuda", True), ("cpu", False), ("mps", False)])
def test_rows_are_held_where_cuda_may_be(name: str, is_some: bool) -> None:
    assert (device_memory(name) is not None) is is_some


def test_a_machine_without_a_driver_is_not_asked_by_torch() -> None:
    """Large segments too, in a process of its own; on a machine with a driver torch is asked."""
    code = """
import sys
import numpy as np
from sightline.storage.device_memory import DeviceMemory, _has_driver, device_memory
from sightline.storage.segment_rows import SegmentRows
few, many = (SegmentRows(np.zeros((num_rows, 16), dtype=np.float16)) for num_rows in (9_999, 10_000))
memory = device_memory("auto")
assert memory.load(few) is None
assert "torch" not in sys.modules
if not _has_driver():
    assert memory.load(many) is None
    assert "torch" not in sys.modules
assert DeviceMemory("cpu", budget_bytes=10**6).load(many) is not None
assert "torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)


@pytest.mark.gpu
def test_a_gpu_gives_half_of_what_is_free() -> None:
    memory = DeviceMemory("cuda")
    assert memory.load(SegmentRows(unit_rows(10_000, 512).astype(np.float16))) is not None
    free_bytes, _ = torch.cuda.mem_get_info()
    assert memory._budget_bytes == pytest.approx(free_bytes / 2, rel=0.2)
