"""What `verify` finds, and that repairing and indexing again makes it whole."""

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from sightline.errors import CorruptSegment
from sightline.storage.records import CollectionRecord, Severity
from sightline.storage.store import Store
from sightline.types import Modality
from tests.sightline.storage.conftest import make_collection
from tests.sightline.storage.synthetic import new_items, unit_rows


def _segment_folders(store: Store) -> list[Path]:
    return sorted((store.folder / "segments").glob("*/*"), key=lambda path: path.stat().st_mtime_ns)


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["embeddings.fp16", "item_ids.i64", "sum.f64", "manifest.json"])
@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_damage_is_found_repaired_and_made_good_by_indexing_again(
    store: Store, collection: CollectionRecord, database_url: str | None, name: str, harm: str
) -> None:
    cid = collection.collection_id
    with store.writer() as writer:
        lost = writer.commit(cid, added=new_items("ab"), embeddings=unit_rows(2))
        kept = writer.commit(cid, added=new_items("cd"), embeddings=unit_rows(2, seed=1))
    path = _segment_folders(store)[0] / name
    _damage(path) if harm == "changed" else path.unlink()
    with Store.open(store.folder, database_url=database_url) as reopened:
        with pytest.raises(CorruptSegment, match="sightline verify"):
            reopened.snapshot(cid)
        findings = reopened.verify()
        assert [finding.severity for finding in findings] == [Severity.ERROR]
        assert findings[0].what.startswith(f"{name} is ")
        assert "sightline verify" not in findings[0].what
        assert (findings[0].where, findings[0].collection) == (str(path.parent), collection.name)
        assert "repair" in findings[0].what_to_do
        assert findings[0].sources == (new_items("a")[0].source,)
        report = reopened.repair()
        assert (report.num_items, report.sources_by_collection) == (2, {collection.name: findings[0].sources})
        assert reopened.verify()[0].sources == findings[0].sources
        assert reopened.statistics(cid).num_missing_embeddings == 2
        assert [known.item_id for known in reopened.known_items(cid)] == kept
        assert "no embedding" in reopened.verify()[0].what
        with reopened.writer() as writer:
            assert writer.commit(cid, added=new_items("ab"), embeddings=unit_rows(2)) == lost
        assert reopened.verify() == []
        assert reopened.snapshot(cid).search(unit_rows(1), 1, modality=None)[0][0].item_id == lost[0]


def test_a_damaged_index_is_refused_and_built_again_by_a_compaction(ann_store: Store, database_url: str | None) -> None:
    collection = make_collection(ann_store)
    cid = collection.collection_id
    with ann_store.writer() as writer:
        writer.commit(cid, added=new_items(range(1000)), embeddings=unit_rows(1000))
        writer.compact(cid, force=True)
    _damage(_segment_folders(ann_store)[0] / "index.faiss")
    with Store.open(ann_store.folder, database_url=database_url) as reopened:
        with pytest.raises(CorruptSegment, match=r"index\.faiss is damaged"):
            reopened.snapshot(cid).search(unit_rows(1), 1, modality=None)
        assert "compact --force" in reopened.verify()[0].what_to_do
        assert reopened.repair().num_items == 0
        with reopened.writer() as writer:
            writer.compact(cid, force=True)
        assert reopened.verify() == []
        assert len(reopened.snapshot(cid).search(unit_rows(1), 7, modality=None)[0]) == 7


def test_leftovers_are_found_and_swept_by_the_next_writer(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        writer.commit(collection.collection_id, added=new_items("a"), embeddings=unit_rows(1))
    stray = store.folder / "segments" / str(collection.collection_id) / "ab12"
    stray.mkdir()
    (stray / "embeddings.fp16").write_bytes(b"half")
    assert [(f.severity, f.where) for f in store.verify()] == [(Severity.WARNING, str(stray))]
    with store.writer():
        assert store.verify() == []
    assert not stray.exists()


def test_rows_and_items_that_do_not_match_are_found(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items("ab"), embeddings=unit_rows(2))
    with store._database.writing() as connection:
        connection.execute(text("DELETE FROM item WHERE item_id = :item_id"), {"item_id": ids[0]})
    assert "1 of its rows belong to no item" in store.verify()[0].what


def test_embeddings_of_another_length_than_one_are_found(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        writer.commit(collection.collection_id, added=new_items("ab"), embeddings=np.float32(2) * unit_rows(2))
    assert "unit length" in store.verify()[0].what


def test_statistics_count_what_is_there(store: Store, collection: CollectionRecord) -> None:
    with store.writer() as writer:
        ids = writer.commit(collection.collection_id, added=new_items("abc"), embeddings=unit_rows(3))
        writer.commit(collection.collection_id, added=new_items("d", modality=Modality.TEXT), embeddings=unit_rows(1))
        writer.commit(collection.collection_id, deleted=ids[:1])
    statistics = store.statistics(collection.collection_id)
    assert statistics.num_items_by_modality == {Modality.IMAGE: 2, Modality.TEXT: 1}
    assert (statistics.num_segments, statistics.num_tombstones, statistics.ann_recall) == (2, 1, None)
    assert statistics.index_descriptions == ("exact", "exact")
    assert statistics.size_bytes == 4 * 16 * 2 + 4 * 8 + 2 * 16 * 8
