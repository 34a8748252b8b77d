"""Hubness biases in storage: searches against plain numpy through commits, deletions, compactions and another bank."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text

from sightline.errors import CorruptSegment, InvalidInput
from sightline.storage.records import BankRecord, CollectionRecord, NewItem, RowBiases, Severity, StoredBank
from sightline.storage.snapshot import Candidate
from sightline.storage.store import Store, StoreOptions
from sightline.storage.writer import Writer
from sightline.types import Embeddings, ItemId, Modality
from tests.sightline.storage.synthetic import SIMILARITY_TOLERANCE, new_items, unit_rows

DIM = 16
BIAS_DIRECTION = unit_rows(1, DIM, seed=99)[0]


def made_up_bank(fingerprint: str = "b1", *, strength: float = 0.5, modality: Modality = Modality.IMAGE) -> StoredBank:
    """Storage reads no bank: its content is bytes, and what it gives comes from the caller."""
    return StoredBank(BankRecord(modality, fingerprint, strength, 7, "made up"), b"any bytes")


def biases_of(embeddings: NDArray[np.float16] | Embeddings) -> NDArray[np.float32]:
    """Of the bank b1: what points in one direction is near every query."""
    return np.asarray(0.4 * (embeddings.astype(np.float16).astype(np.float32) @ BIAS_DIRECTION), dtype=np.float32)


def other_biases_of(embeddings: NDArray[np.float16]) -> NDArray[np.float32]:
    """Of the bank b2."""
    return -2 * biases_of(embeddings)


def row_biases(embeddings: Embeddings, *, fingerprint: str = "b1") -> RowBiases:
    return RowBiases(biases_of(embeddings), {Modality.IMAGE: fingerprint})


@dataclass
class Reference:
    """What is in the collection, and its search in plain numpy."""

    rows: dict[ItemId, NDArray[np.float32]] = field(default_factory=dict)

    def add(self, writer: Writer, collection: CollectionRecord, items: list[NewItem], embeddings: Embeddings) -> list[ItemId]:
        ids = writer.commit(collection.collection_id, added=items, embeddings=embeddings, biases=row_biases(embeddings))
        self.rows.update(zip(ids, embeddings, strict=True))
        return ids

    def delete(self, writer: Writer, collection: CollectionRecord, ids: list[ItemId]) -> None:
        writer.commit(collection.collection_id, deleted=ids)
        for item_id in ids:
            del self.rows[item_id]

    def check(self, found: list[list[Candidate]], xq: Embeddings, *, weight: float, k: int, factor: float = 1.0) -> None:
        """Similarities, what they are ordered by, and that both belong to the item."""
        matrix = np.stack([*self.rows.values()])
        adjusted = xq @ matrix.T - np.float32(weight * factor) * biases_of(matrix)
        np.testing.assert_allclose(
            [[each.adjusted_similarity for each in candidates] for candidates in found],
            -np.sort(-adjusted, axis=1)[:, :k],
            atol=SIMILARITY_TOLERANCE,
        )
        for query, candidates in zip(xq, found, strict=True):
            embeddings = np.stack([self.rows[each.item_id] for each in candidates])
            similarities = np.array([each.similarity for each in candidates])
            np.testing.assert_allclose(similarities, embeddings @ query, atol=SIMILARITY_TOLERANCE)
            taken_off = similarities - [each.adjusted_similarity for each in candidates]
            np.testing.assert_allclose(taken_off, weight * factor * biases_of(embeddings), atol=1e-5)


@pytest.fixture(params=[50_000, 300], ids=["exact", "ANN"])
def biased_store(request: pytest.FixtureRequest, tmp_path: Path, database_url: str | None) -> Iterator[Store]:
    """A store that searches exactly, or builds an index from 301 rows on."""
    with Store.open(tmp_path / "store", database_url=database_url, options=StoreOptions(exact_max_rows=request.param)) as opened:
        yield opened


@pytest.fixture
def collection(biased_store: Store) -> CollectionRecord:
    """An empty collection with a bank for its pictures."""
    return biased_store.create_collection(
        "photos", encoder_name="made-up", encoder_fingerprint="f00", embedding_dim=DIM, banks=[made_up_bank()]
    )


XQ = unit_rows(6, DIM, seed=5)


def search(
    store: Store, collection: CollectionRecord, *, weight: float, allowed: NDArray[np.int64] | None = None, k: int = 10
) -> list[list[Candidate]]:
    """Exactly, since an index misses a few."""
    snapshot = store.snapshot(collection.collection_id)
    return snapshot.search(XQ, k, modality=Modality.IMAGE, allowed=allowed, exact=True, bias_weight=weight)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_searches_take_the_bias_off_through_a_collections_life(biased_store: Store, collection: CollectionRecord, weight: float) -> None:
    reference = Reference()
    with biased_store.writer() as writer:
        ids = reference.add(writer, collection, new_items(range(300)), unit_rows(300, DIM))
        reference.check(search(biased_store, collection, weight=weight), XQ, weight=weight, k=10)
        reference.add(writer, collection, new_items(range(200, 400)), unit_rows(200, DIM, seed=1))
        reference.delete(writer, collection, ids[:40])
        reference.check(search(biased_store, collection, weight=weight), XQ, weight=weight, k=10)
        writer.compact(collection.collection_id, force=True, queries=unit_rows(40, DIM, seed=6))
    reference.check(search(biased_store, collection, weight=weight), XQ, weight=weight, k=10)
    planned = biased_store.snapshot(collection.collection_id).search(XQ, 10, modality=Modality.IMAGE, bias_weight=weight)
    exact = search(biased_store, collection, weight=weight)
    shared = [len({c.item_id for c in one} & {c.item_id for c in other}) for one, other in zip(planned, exact, strict=True)]
    assert np.mean(shared) >= 8  # of ten; tuned to 0.95
    assert biased_store.verify() == []


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_filter_changes_nothing_about_the_bias(biased_store: Store, collection: CollectionRecord, share: float) -> None:
    whole = Reference()
    with biased_store.writer() as writer:
        whole.add(writer, collection, new_items(range(600)), unit_rows(600, DIM))
        writer.compact(collection.collection_id, force=True)
    allowed = [item_id for item_id in whole.rows if np.random.default_rng(item_id).random() < share]
    found = search(biased_store, collection, weight=0.7, allowed=np.array(allowed), k=5)
    Reference({item_id: whole.rows[item_id] for item_id in allowed}).check(found, XQ, weight=0.7, k=5)


def test_more_rows_than_memory_are_biased_from_disk(tmp_path: Path) -> None:
    reference = Reference()
    with Store.open(tmp_path, options=StoreOptions(index_memory_bytes=1000)) as store:
        record = store.create_collection("c", encoder_name="e", encoder_fingerprint="f", embedding_dim=DIM, banks=[made_up_bank()])
        with store.writer() as writer:
            reference.add(writer, record, new_items(range(500)), unit_rows(500, DIM))
        assert not store.snapshot(record.collection_id).segments[0].is_resident
        reference.check(search(store, record, weight=0.5), XQ, weight=0.5, k=10)


def test_the_plan_says_how_much_is_taken_off(biased_store: Store, collection: CollectionRecord) -> None:
    with biased_store.writer() as writer:
        Reference().add(writer, collection, new_items("ab"), unit_rows(2, DIM))
    snapshot = biased_store.snapshot(collection.collection_id)
    assert str(snapshot.prepare(modality=None, bias_weight=0.25).plan) == "exact over 2 rows, 0.25 of the hubness bias taken off"
    assert str(snapshot.prepare(modality=None).plan) == "exact over 2 rows"


def test_a_modality_without_a_bank_is_ranked_as_it_is(biased_store: Store, collection: CollectionRecord) -> None:
    items = [*new_items("ab"), *new_items("cd", modality=Modality.TEXT)]
    rows = unit_rows(4, DIM)
    with biased_store.writer() as writer:
        writer.commit(collection.collection_id, added=items, embeddings=rows, biases=row_biases(rows))
    snapshot = biased_store.snapshot(collection.collection_id)
    assert snapshot.bank(Modality.TEXT) is None
    for found in snapshot.search(XQ, 9, modality=Modality.TEXT, bias_weight=1.0):
        assert [each.adjusted_similarity for each in found] == [each.similarity for each in found]


@pytest.mark.parametrize(
    ("biases", "sentence"),
    [
        (None, "from none"),
        (row_biases(unit_rows(2, DIM), fingerprint="another"), "from another"),
        (row_biases(unit_rows(3, DIM)), r"shape \(3,\)"),
        (RowBiases(np.array([0.1, np.nan], dtype=np.float32), {Modality.IMAGE: "b1"}), "is a number"),
    ],
)
def test_items_without_their_bias_from_the_collections_bank_are_refused(
    biased_store: Store, collection: CollectionRecord, biases: RowBiases | None, sentence: str
) -> None:
    with biased_store.writer() as writer, pytest.raises(InvalidInput, match=sentence):
        writer.commit(collection.collection_id, added=new_items("ab"), embeddings=unit_rows(2, DIM), biases=biases)
    assert biased_store.snapshot(collection.collection_id).num_items() == 0


def filled(writer: Writer, collection: CollectionRecord) -> Reference:
    """Two segments, one of them with an index where the store builds some, and tombstones in both."""
    reference = Reference()
    ids = reference.add(writer, collection, new_items(range(400)), unit_rows(400, DIM))
    writer.compact(collection.collection_id, force=True)
    ids += reference.add(writer, collection, new_items(range(400, 500)), unit_rows(100, DIM, seed=1))
    reference.delete(writer, collection, [*ids[:20], *ids[410:420]])
    return reference


def test_another_bank_biases_every_row_in_one_commit_and_embeds_none(biased_store: Store, collection: CollectionRecord) -> None:
    with biased_store.writer() as writer:
        reference = filled(writer, collection)
        before, statistics = biased_store.snapshot(collection.collection_id), biased_store.statistics(collection.collection_id)
        inodes = {path.stat().st_ino for path in biased_store.folder.glob("segments/*/*/embeddings.fp16")}
        num_succeeded = writer.replace_bank(collection.collection_id, made_up_bank("b2", strength=1.0), other_biases_of)
        after = biased_store.snapshot(collection.collection_id)
        assert (num_succeeded, after.generation) == (2, before.generation + 1)
        reference.check(search(biased_store, collection, weight=0.5), XQ, weight=0.5, k=10, factor=-2)
        reference.check(before.search(XQ, 10, modality=Modality.IMAGE, exact=True, bias_weight=0.5), XQ, weight=0.5, k=10)
        bank = after.bank(Modality.IMAGE)
        assert bank is not None
        assert (bank.fingerprint, bank.strength) == ("b2", 1.0)
        assert {path.stat().st_ino for path in biased_store.folder.glob("segments/*/*/embeddings.fp16")} == inodes
        now = biased_store.statistics(collection.collection_id)
        assert (now.num_items_by_modality, now.num_tombstones) == (statistics.num_items_by_modality, statistics.num_tombstones)
        assert [text == "exact" for text in now.index_descriptions] == [text == "exact" for text in statistics.index_descriptions]
        assert biased_store.verify() == []
        writer.compact(collection.collection_id)
    reference.check(search(biased_store, collection, weight=0.5), XQ, weight=0.5, k=10, factor=-2)
    assert biased_store.statistics(collection.collection_id).num_tombstones == 0


def test_the_same_bank_with_another_strength_rewrites_nothing(biased_store: Store, collection: CollectionRecord) -> None:
    with biased_store.writer() as writer:
        filled(writer, collection)
        folders = set(biased_store.folder.glob("segments/*/*"))
        assert writer.replace_bank(collection.collection_id, made_up_bank(strength=0.0), biases_of) == 0
    bank = biased_store.snapshot(collection.collection_id).bank(Modality.IMAGE)
    assert bank is not None
    assert bank.strength == 0.0
    assert set(biased_store.folder.glob("segments/*/*")) == folders


def test_a_collection_that_had_none_gets_a_bank_and_leaves_it(biased_store: Store) -> None:
    record = biased_store.create_collection("plain", encoder_name="e", encoder_fingerprint="f", embedding_dim=DIM)
    cid, reference = record.collection_id, Reference()
    with biased_store.writer() as writer:
        ids = writer.commit(cid, added=new_items(range(350)), embeddings=unit_rows(350, DIM))
        reference.rows.update(zip(ids, unit_rows(350, DIM), strict=True))
        writer.compact(cid, force=True)
        reference.check(search(biased_store, record, weight=0.5), XQ, weight=0.0, k=10)  # asked for, and there is none
        writer.replace_bank(cid, made_up_bank(), biases_of, queries=unit_rows(40, DIM, seed=6))
        reference.check(search(biased_store, record, weight=0.5), XQ, weight=0.5, k=10)
        writer.remove_banks(cid)
        reference.check(search(biased_store, record, weight=0.5), XQ, weight=0.0, k=10)
        writer.commit(cid, added=new_items(["unbiased"]), embeddings=unit_rows(1, DIM, seed=2))
        assert biased_store.verify() == []
        writer.compact(cid)
    assert biased_store.snapshot(cid).segments[0].files.biases is None
    assert biased_store.verify() == []


def test_a_bank_for_an_empty_collection_waits_for_its_items(biased_store: Store) -> None:
    record = biased_store.create_collection("plain", encoder_name="e", encoder_fingerprint="f", embedding_dim=DIM)
    reference = Reference()
    with biased_store.writer() as writer:
        assert writer.replace_bank(record.collection_id, made_up_bank(), biases_of) == 0
        reference.add(writer, record, new_items("abc"), unit_rows(3, DIM))
    reference.check(search(biased_store, record, weight=0.5), XQ, weight=0.5, k=10)


def test_banks_are_kept_by_modality_and_go_with_the_collection(biased_store: Store, collection: CollectionRecord) -> None:
    of_texts = made_up_bank("b3", modality=Modality.TEXT)
    with biased_store.writer() as writer:
        writer.replace_bank(collection.collection_id, of_texts, biases_of)
    assert biased_store.banks(collection.collection_id) == [made_up_bank(), of_texts]
    assert biased_store.statistics(collection.collection_id).banks == (made_up_bank().record, of_texts.record)
    biased_store.drop_collection(collection.collection_id)
    assert biased_store.banks(collection.collection_id) == []


def test_rows_that_are_not_all_from_one_bank_are_ranked_by_none(biased_store: Store, collection: CollectionRecord) -> None:
    reference = Reference()
    with biased_store.writer() as writer:
        reference.add(writer, collection, new_items(range(30)), unit_rows(30, DIM))
    with biased_store._database.writing() as connection:
        connection.execute(text("UPDATE query_bank SET fingerprint = 'b2'"))
        connection.execute(text("UPDATE collection SET generation = generation + 1"))
    assert biased_store.snapshot(collection.collection_id).bank(Modality.IMAGE) is None
    reference.check(search(biased_store, collection, weight=0.5), XQ, weight=0.0, k=10)
    (finding,) = biased_store.verify()
    assert finding.severity is Severity.WARNING
    assert "not from the collection's bank" in finding.what
    assert "sightline hubness" in finding.what_to_do
    assert biased_store.repair().num_items == 0


@pytest.mark.parametrize("harm", ["changed", "cut"])
def test_damaged_biases_are_found_before_they_rank_anything(
    biased_store: Store, collection: CollectionRecord, database_url: str | None, harm: str
) -> None:
    with biased_store.writer() as writer:
        Reference().add(writer, collection, new_items("ab"), unit_rows(2, DIM))
    (path,) = biased_store.folder.glob("segments/*/*/hubness_bias.f32")
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content if harm == "changed" else content[:-1])
    with Store.open(biased_store.folder, database_url=database_url) as reopened:
        with pytest.raises(CorruptSegment, match=r"hubness_bias\.f32 is damaged"):
            reopened.snapshot(collection.collection_id)
        assert reopened.verify()[0].what.startswith("hubness_bias.f32 is damaged")
        assert reopened.repair().num_items == 2


def test_biases_that_are_no_numbers_are_found(biased_store: Store, collection: CollectionRecord) -> None:
    def nonsense(embeddings: NDArray[np.float16]) -> NDArray[np.float32]:
        return np.full(len(embeddings), np.nan, dtype=np.float32)

    with biased_store.writer() as writer:
        Reference().add(writer, collection, new_items("ab"), unit_rows(2, DIM))
        with pytest.raises(InvalidInput, match="that are no numbers"):
            writer.replace_bank(collection.collection_id, made_up_bank("b2"), nonsense)
        with pytest.raises(ZeroDivisionError):
            writer.replace_bank(collection.collection_id, made_up_bank("b2"), lambda embeddings: 1 / 0)  # type: ignore[arg-type, return-value]
    assert biased_store.banks(collection.collection_id) == [made_up_bank()]
    assert len(list(biased_store.folder.glob("segments/*/*"))) == 1
    assert biased_store.verify() == []


def test_where_there_are_no_links_files_are_copied(
    biased_store: Store, collection: CollectionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    reference = Reference()
    with biased_store.writer() as writer:
        reference.add(writer, collection, new_items(range(20)), unit_rows(20, DIM))
        monkeypatch.setattr(os, "link", no_links)
        writer.replace_bank(collection.collection_id, made_up_bank("b2"), other_biases_of)
    reference.check(search(biased_store, collection, weight=0.5), XQ, weight=0.5, k=10, factor=-2)
    assert biased_store.verify() == []


def test_a_reader_in_another_process_sees_all_of_the_new_bank_or_none_of_it(
    biased_store: Store, collection: CollectionRecord, database_url: str | None
) -> None:
    with Store.open(biased_store.folder, database_url=database_url) as reader, biased_store.writer() as writer:
        reference = filled(writer, collection)
        seen = reader.snapshot(collection.collection_id)
        writer.replace_bank(collection.collection_id, made_up_bank("b2"), other_biases_of)
        reference.check(seen.search(XQ, 10, modality=Modality.IMAGE, exact=True, bias_weight=0.5), XQ, weight=0.5, k=10)
        now = reader.snapshot(collection.collection_id)
        assert {s.files.manifest.bank_fingerprint for s in now.segments} == {"b2"}
        reference.check(now.search(XQ, 10, modality=Modality.IMAGE, exact=True, bias_weight=0.5), XQ, weight=0.5, k=10, factor=-2)


def test_a_bank_that_is_replaced_is_gone(biased_store: Store, collection: CollectionRecord) -> None:
    stored = replace(made_up_bank("b2"), content=b"other bytes")
    with biased_store.writer() as writer:
        writer.replace_bank(collection.collection_id, stored, biases_of)
    assert biased_store.banks(collection.collection_id) == [stored]


def test_a_segment_whose_rows_are_all_dead_takes_another_bank_too(biased_store: Store, collection: CollectionRecord) -> None:
    reference = Reference()
    with biased_store.writer() as writer:
        ids = reference.add(writer, collection, new_items(range(320)), unit_rows(320, DIM))
        writer.compact(collection.collection_id, force=True)
        reference.delete(writer, collection, ids)
        reference.add(writer, collection, new_items("abc"), unit_rows(3, DIM, seed=1))
        writer.replace_bank(collection.collection_id, made_up_bank("b2"), other_biases_of)
        reference.check(search(biased_store, collection, weight=0.5, k=3), XQ, weight=0.5, k=3, factor=-2)
        assert biased_store.verify() == []
        writer.compact(collection.collection_id)
    reference.check(search(biased_store, collection, weight=0.5, k=3), XQ, weight=0.5, k=3, factor=-2)
