"""Patches in the life of a collection: committed, added later, merged, deleted, replaced, damaged; never lost, never another picture's."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.errors import CorruptSegment, InvalidInput, OutOfSpace, PatchesNotFound
from sightline.storage import patch_files
from sightline.storage.patch_files import PATCH_FILES, PATCH_PRIORS, PATCH_ROWS, PATCHES, PatchWriter, StoredPatches
from sightline.storage.patches import AddedPatches, ItemPatches, PatchBatch, PatchFormat, quantised_batch
from sightline.storage.records import BankRecord, CollectionRecord, NewItem, PatchStatistics, StoredBank
from sightline.storage.store import Store, StoreOptions
from sightline.storage.writer import Writer
from sightline.types import CollectionId, ItemId, Modality
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import new_items, unit_rows

FORMAT = PatchFormat("fusion-1", 2, 3, 8)
OTHER = PatchFormat("fusion-2", 2, 2, 8)


def patches_of(key: str, patch_format: PatchFormat = FORMAT) -> NDArray[np.float32]:
    """(num_patches, patch_dim), another for every key."""
    seed = sum((place + 1) * ord(letter) for place, letter in enumerate(key + patch_format.fusion_fingerprint))
    return np.random.default_rng(seed).standard_normal((patch_format.num_patches, patch_format.patch_dim)).astype(np.float32)


def batch_of(keys: list[str], patch_format: PatchFormat = FORMAT) -> PatchBatch:
    return quantised_batch(np.stack([patches_of(key, patch_format) for key in keys]), patch_format, priors_of=priors_of)


def priors_of(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """Another for every picture."""
    return patches[:, 0, 0] - patches[:, -1, -1]


def add(writer: Writer, cid: CollectionId, items: list[NewItem], *, patched: list[str] | None = None, seed: int = 0) -> list[ItemId]:
    """Commit items, of which those with these keys have patches; None: all."""
    keys = [item.key for item in items if patched is None or item.key in patched]
    positions = np.array([at for at, item in enumerate(items) if item.key in keys], dtype=np.int64)
    patches = AddedPatches(positions, batch_of(keys)) if keys else None
    return writer.commit(cid, added=items, embeddings=unit_rows(len(items), seed=seed), patches=patches)


def check(store: Store, cid: CollectionId, *, patched: set[str], patch_format: PatchFormat = FORMAT) -> None:
    """Exactly these items have patches, and each its own."""
    snapshot, fingerprint = store.snapshot(cid), patch_format.fusion_fingerprint
    ids = {known.key: known.item_id for known in store.known_items(cid)}
    has_some = snapshot.has_patches(np.array([*ids.values()], dtype=np.int64), fusion_fingerprint=fingerprint)
    assert {key for key, has in zip(ids, has_some, strict=True) if has} == patched
    keys = [*sorted(patched, reverse=True), *sorted(patched)[:2]]  # in an order of their own, and some twice
    if keys:
        batch = snapshot.patches(np.array([ids[key] for key in keys]), fusion_fingerprint=fingerprint)
        assert batch.format == patch_format
        np.testing.assert_array_equal(batch.dequantised(), batch_of(keys, patch_format).dequantised())
        np.testing.assert_array_equal(batch.priors, batch_of(keys, patch_format).priors)
    unpatched = {item_id for segment in snapshot.segments for item_id in segment.unpatched_item_ids(fingerprint).tolist()}
    assert unpatched == set(ids.values()) - {ids[key] for key in patched}


@pytest.fixture
def cid(store: Store, collection: CollectionRecord) -> CollectionId:
    return collection.collection_id


def test_patches_come_with_the_items_that_have_them(store: Store, cid: CollectionId) -> None:
    items = [*new_items("dcba"), *new_items("xy", modality=Modality.TEXT), *new_items("ef")]
    with store.writer() as writer:
        add(writer, cid, items, patched=["d", "b", "a", "f"])
    check(store, cid, patched=set("dbaf"))
    assert store.verify() == []
    assert store.statistics(cid).patches == (PatchStatistics("fusion-1", 4, FORMAT.bytes_per_image),)
    assert store.snapshot(cid).patch_formats() == [FORMAT]


def test_a_collection_without_patches_says_how_to_add_them(store: Store, cid: CollectionId) -> None:
    with store.writer() as writer:
        ids = add(writer, cid, new_items("ab"), patched=[])
    check(store, cid, patched=set())
    snapshot = store.snapshot(cid)
    assert snapshot.patch_formats() == []
    for item_ids in (ids, [], [10**9]):
        with pytest.raises(PatchesNotFound, match="`sightline patches photos`"):
            snapshot.patches(np.array(item_ids, dtype=np.int64), fusion_fingerprint="fusion-1")
    assert store.statistics(cid).patches == ()


def test_where_all_rows_have_patches_no_list_of_rows_is_written(store: Store, cid: CollectionId) -> None:
    with store.writer() as writer:
        add(writer, cid, new_items("abc"))
        add(writer, cid, new_items("de"), patched=["e"])
    assert len(list(store.folder.glob("segments/*/*/patches.i8"))) == 2
    assert len(list(store.folder.glob("segments/*/*/patch_rows.i64"))) == 1


@pytest.mark.parametrize("records_at_once", [2, 1024])
def test_compaction_deletion_and_replacement_lose_none(
    store: Store, cid: CollectionId, monkeypatch: pytest.MonkeyPatch, records_at_once: int
) -> None:
    monkeypatch.setattr("sightline.storage.compaction.RECORDS_AT_ONCE", records_at_once)
    with store.writer() as writer:
        ids = add(writer, cid, new_items("abcdefgh"), patched=list("abcdef"))
        add(writer, cid, new_items("klm"))
        add(writer, cid, new_items("xyz", modality=Modality.TEXT), patched=[])
        writer.commit(cid, deleted=ids[:2])
        check(store, cid, patched=set("cdefklm"))
        writer.compact(cid)
        check(store, cid, patched=set("cdefklm"))
        # d loses its patches with its picture, h gets some, k another picture's.
        add(writer, cid, new_items("dhk"), patched=["h", "k"], seed=3)
        check(store, cid, patched=set("cefhklm"))
        writer.compact(cid)
    check(store, cid, patched=set("cefhklm"))
    assert store.statistics(cid).patches == (PatchStatistics("fusion-1", 7, FORMAT.bytes_per_image),)
    assert store.statistics(cid).num_segments == 2
    assert store.verify() == []


def test_when_all_that_had_patches_are_gone_so_are_the_files(store: Store, cid: CollectionId) -> None:
    with store.writer() as writer:
        ids = add(writer, cid, new_items("abc"), patched=["a"])
        writer.commit(cid, deleted=ids[:1])
        writer.compact(cid)
    check(store, cid, patched=set())
    assert [path.name for path in store.folder.glob("segments/*/*/patch*")] == []


def blocks_of(
    store: Store, cid: CollectionId, item_ids: NDArray[np.int64], patch_format: PatchFormat, *, size: int = 3
) -> Iterator[ItemPatches]:
    """As a generator makes them, block by block."""
    keys = {known.item_id: known.key for known in store.known_items(cid)}
    for start in range(0, len(item_ids), size):
        ids = item_ids[start : start + size]
        yield ItemPatches(ids, batch_of([keys[item_id] for item_id in ids.tolist()], patch_format))


def add_missing(store: Store, writer: Writer, cid: CollectionId, patch_format: PatchFormat = FORMAT, *, most: int = 10**9) -> None:
    """What `sightline patches` will do: segment by segment, what is missing."""
    for segment in store.snapshot(cid).segments:
        missing = segment.unpatched_item_ids(patch_format.fusion_fingerprint)[:most]
        if segment.modality is Modality.IMAGE and len(missing):
            writer.add_patches(cid, segment, patch_format, blocks_of(store, cid, missing, patch_format))


def test_patches_are_added_later_and_the_other_files_are_linked(store: Store, cid: CollectionId) -> None:
    with store.writer() as writer:
        ids = add(writer, cid, new_items(range(10)), patched=[])
        add(writer, cid, new_items(range(10, 14)), patched=["11", "13"])
        writer.commit(cid, deleted=ids[:2])
        inodes = {path.stat().st_ino for path in store.folder.glob("segments/*/*/embeddings.fp16")}
        found = store.snapshot(cid).search(unit_rows(2, seed=9), 50, modality=None)
        add_missing(store, writer, cid)
        check(store, cid, patched={str(number) for number in range(2, 14)})
        assert {path.stat().st_ino for path in store.folder.glob("segments/*/*/embeddings.fp16")} == inodes
        assert store.snapshot(cid).search(unit_rows(2, seed=9), 50, modality=None) == found
        assert store.statistics(cid).num_tombstones == 2
        assert store.verify() == []
        writer.compact(cid)
    check(store, cid, patched={str(number) for number in range(2, 14)})


def test_what_was_added_before_a_stop_is_kept_and_the_rest_is_added_later(store: Store, cid: CollectionId) -> None:
    with store.writer() as writer:
        add(writer, cid, new_items(range(10)), patched=[])
        add_missing(store, writer, cid, most=4)
        check(store, cid, patched={str(number) for number in range(4)})
        (segment,) = store.snapshot(cid).segments

        def killed() -> Iterator[ItemPatches]:
            yield from blocks_of(store, cid, segment.unpatched_item_ids("fusion-1")[:3], FORMAT)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            writer.add_patches(cid, segment, FORMAT, killed())
        check(store, cid, patched={str(number) for number in range(4)})
        assert len(list(store.folder.glob("segments/*/*"))) == 1
    with store.writer() as writer:
        add_missing(store, writer, cid, most=4)
        check(store, cid, patched={str(number) for number in range(8)})
        add_missing(store, writer, cid)
    check(store, cid, patched={str(number) for number in range(10)})
    assert store.verify() == []


def test_another_fusion_encoders_patches_take_their_place_segment_by_segment_and_none_is_lost_between(
    store: Store, cid: CollectionId
) -> None:
    with store.writer() as writer:
        add(writer, cid, new_items("abcd"))
        add(writer, cid, new_items("efg"))
        add(writer, cid, new_items("hi"), patched=[])
        first = store.snapshot(cid).segments[0]
        writer.add_patches(cid, first, OTHER, blocks_of(store, cid, first.unpatched_item_ids("fusion-2"), OTHER))
        for _ in range(2):
            check(store, cid, patched=set("efg"))
            check(store, cid, patched=set("abcd"), patch_format=OTHER)
            assert {each.fusion_fingerprint for each in store.snapshot(cid).patch_formats()} == {"fusion-1", "fusion-2"}
            writer.compact(cid)
        assert store.statistics(cid).num_segments == 2
        assert {patches.num_images for patches in store.statistics(cid).patches} == {4, 3}
        add_missing(store, writer, cid, OTHER)
        writer.compact(cid)
    check(store, cid, patched=set("abcdefghi"), patch_format=OTHER)
    check(store, cid, patched=set())
    assert store.statistics(cid).num_segments == 1


def test_a_bank_that_is_replaced_keeps_the_patches(store: Store, cid: CollectionId) -> None:
    bank = StoredBank(BankRecord(Modality.IMAGE, "b1", 0.5, 1, "made up"), b"")
    with store.writer() as writer:
        add(writer, cid, new_items("abcd"), patched=["b", "d"])
        writer.replace_bank(cid, bank, lambda embeddings: embeddings[:, 0].astype(np.float32))
    check(store, cid, patched=set("bd"))
    assert store.snapshot(cid).bank(Modality.IMAGE) == bank.record


@pytest.mark.parametrize(
    ("positions", "keys", "sentence"),
    [
        ([0], ["a", "b"], "are named"),
        ([0, 0], ["a", "b"], "are named"),
        ([0, 2], ["a", "x"], "no picture"),
        ([0, 9], ["a", "b"], "no picture"),
    ],
)
def test_patches_that_do_not_fit_their_items_are_refused(
    store: Store, cid: CollectionId, positions: list[int], keys: list[str], sentence: str
) -> None:
    items = [*new_items("ab"), *new_items("x", modality=Modality.TEXT)]
    patches = AddedPatches(np.array(positions, dtype=np.int64), batch_of(keys))
    with store.writer() as writer, pytest.raises(InvalidInput, match=sentence):
        writer.commit(cid, added=items, embeddings=unit_rows(3), patches=patches)
    assert store.snapshot(cid).num_items() == 0


def test_patches_for_items_that_are_not_in_the_segment_are_refused(store: Store, cid: CollectionId) -> None:
    with store.writer() as writer:
        add(writer, cid, new_items("ab"), patched=[])
        add(writer, cid, new_items("x", modality=Modality.TEXT), patched=[])
        pictures, texts = store.snapshot(cid).segments
        ids = pictures.files.item_ids
        for blocks, sentence in (
            ([ItemPatches(np.array([10**6]), batch_of(["a"]))], "not in the segment"),
            ([ItemPatches(ids[:1], batch_of(["a"]))] * 2, "come twice"),
            ([ItemPatches(np.repeat(ids[:1], 2), batch_of(["a", "a"]))], "come twice"),
            ([ItemPatches(ids[:1], batch_of(["a"], OTHER))], "among those of"),
        ):
            with pytest.raises(InvalidInput, match=sentence):
                writer.add_patches(cid, pictures, FORMAT, blocks)
        with pytest.raises(InvalidInput, match="no segment of pictures"):
            writer.add_patches(cid, texts, FORMAT, [])
        writer.compact(cid, force=True)
        with pytest.raises(InvalidInput, match="from a new snapshot"):
            writer.add_patches(cid, pictures, FORMAT, [])
    check(store, cid, patched=set())
    assert store.verify() == []


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", sorted(PATCH_FILES))
@pytest.mark.parametrize("harm", [_shorten, Path.unlink])
def test_a_patch_file_cut_short_or_missing_breaks_the_second_look_alone(
    store: Store, collection: CollectionRecord, database_url: str | None, name: str, harm: object
) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        ids = add(writer, cid, new_items("abc"), patched=["a", "c"])
    (path,) = store.folder.glob(f"segments/*/*/{name}")
    harm(path)  # type: ignore[operator]
    with Store.open(store.folder, database_url=database_url) as reopened:
        snapshot = reopened.snapshot(cid)
        assert len(snapshot.search(unit_rows(1), 9, modality=None)[0]) == 3
        with pytest.raises(CorruptSegment, match=rf"{name} is damaged.*sightline verify"):
            snapshot.patches(np.array(ids[:1]), fusion_fingerprint="fusion-1")
        (finding,) = reopened.verify()
        assert finding.what.startswith(f"{name} is damaged")
        assert f"`sightline patches {collection.name}` makes them anew" in finding.what_to_do
        assert reopened.repair().num_items == 0  # no embedding is given up for it
        with reopened.writer() as writer:
            with pytest.raises(CorruptSegment, match=name):
                writer.compact(cid, force=True)
            add_missing(reopened, writer, cid)
            check(reopened, cid, patched=set("abc"))
            writer.compact(cid, force=True)
        assert reopened.verify() == []
    check(store, cid, patched=set("abc"))


def test_damage_to_the_patches_of_one_segment_leaves_those_of_the_others(
    store: Store, collection: CollectionRecord, database_url: str | None
) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        whole = add(writer, cid, new_items("ab"), seed=1)
        (former,) = store.folder.glob(f"segments/*/*/{PATCHES}")
        broken = add(writer, cid, new_items("cde"), patched=["d", "e"], seed=2)
    (path,) = set(store.folder.glob(f"segments/*/*/{PATCHES}")) - {former}
    _shorten(path)
    with Store.open(store.folder, database_url=database_url) as reopened:
        snapshot = reopened.snapshot(cid)
        ids = np.array([*broken, *whole])
        assert snapshot.has_patches(ids, fusion_fingerprint="fusion-1").tolist() == [False] * 3 + [True] * 2
        found = snapshot.patches(np.array(whole), fusion_fingerprint="fusion-1")
        np.testing.assert_array_equal(found.dequantised(), batch_of(["a", "b"]).dequantised())
        with pytest.raises(CorruptSegment, match=rf"{PATCHES} is damaged"):
            snapshot.patches(ids, fusion_fingerprint="fusion-1")
        damage = snapshot.patch_damage(ids, fusion_fingerprint="fusion-1")
        assert damage is not None
        assert damage.num_items == 3
        assert str(path) in str(damage.first)
        assert snapshot.patch_damage(np.array(whole), fusion_fingerprint="fusion-1") is None
        assert snapshot.patch_damage(ids, fusion_fingerprint="fusion-2") is None


@pytest.mark.parametrize("name", sorted(PATCH_FILES))
def test_a_changed_byte_of_patches_is_found_by_verify_and_not_copied(
    store: Store, collection: CollectionRecord, database_url: str | None, name: str
) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        add(writer, cid, new_items("abc"), patched=["a", "c"])
    (path,) = store.folder.glob(f"segments/*/*/{name}")
    _change(path)
    with Store.open(store.folder, database_url=database_url) as reopened:
        assert [finding.what.partition(" ")[0] for finding in reopened.verify()] == [name]
        with reopened.writer() as writer:
            with pytest.raises(CorruptSegment, match=name):
                writer.compact(cid, force=True)
            add_missing(reopened, writer, cid)  # of b, beside which the damaged ones of a and c would look whole
            check(reopened, cid, patched=set("abc" if name == PATCH_ROWS else "b"))  # rows are checked on opening
        assert reopened.verify() == []


def test_patches_older_than_priors_are_read_as_such_whose_priors_are_not_known(tmp_path: Path) -> None:
    batch = batch_of(["a", "b"])
    writer = PatchWriter(tmp_path, FORMAT)
    writer.append(np.array([0, 1]), batch)
    seals = writer.seal(num_rows=2)
    (tmp_path / PATCH_PRIORS).unlink()
    del seals[PATCH_PRIORS]

    found = StoredPatches(tmp_path, FORMAT, num_rows=2, seals=seals).gather(np.array([1]))

    np.testing.assert_array_equal(found.dequantised(), batch.dequantised()[1:])
    assert np.isnan(found.priors).all()


def test_a_reader_keeps_the_patches_that_it_has_mapped(store: Store, collection: CollectionRecord, database_url: str | None) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        ids = add(writer, cid, new_items("abc"))
        with Store.open(store.folder, database_url=database_url) as reader:
            snapshot = reader.snapshot(cid)
            writer.compact(cid, force=True)
            batch = snapshot.patches(np.array(ids), fusion_fingerprint="fusion-1")
    np.testing.assert_array_equal(batch.dequantised(), batch_of(list("abc")).dequantised())


def test_rows_of_an_indexed_segment_keep_index_and_patches(ann_store: Store) -> None:
    cid = make_collection(ann_store).collection_id
    with ann_store.writer() as writer:
        add(writer, cid, new_items(range(600)), patched=[])
        writer.compact(cid, force=True)
        descriptions = ann_store.statistics(cid).index_descriptions
        assert "IVF" in descriptions[0]
        (segment,) = ann_store.snapshot(cid).segments
        writer.add_patches(cid, segment, FORMAT, blocks_of(ann_store, cid, segment.unpatched_item_ids("fusion-1"), FORMAT, size=128))
    assert ann_store.statistics(cid).index_descriptions == descriptions
    check(ann_store, cid, patched={str(number) for number in range(600)})
    assert ann_store.verify() == []


def test_patches_do_not_count_as_rows_that_are_kept_in_memory(tmp_path: Path) -> None:
    """Three rows of sixteen dimensions are 96 bytes; with their patches the segment has some hundreds."""
    with Store.open(tmp_path, options=StoreOptions(index_memory_bytes=100)) as store:
        cid = make_collection(store).collection_id
        with store.writer() as writer:
            add(writer, cid, new_items("abc"))
        assert store.statistics(cid).size_bytes > 100
        assert store.snapshot(cid).segments[0].is_resident


def test_a_commit_whose_patches_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path, options=StoreOptions(min_free_bytes=2**60)) as store:
        cid = make_collection(store).collection_id
        with store.writer() as writer, pytest.raises(OutOfSpace):
            add(writer, cid, new_items("abc"))


def test_many_patches_are_copied_a_few_at_a_time(store: Store, cid: CollectionId, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.storage.succession.RECORDS_AT_ONCE", 2)
    assert patch_files.RECORDS_AT_ONCE == 1024
    with store.writer() as writer:
        add(writer, cid, new_items("abcdefg"), patched=list("bcdfg"))
        add_missing(store, writer, cid, most=1)
    check(store, cid, patched=set("abcdfg"))
