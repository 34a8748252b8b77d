"""Candidates against brute force in numpy, within a modality and over both."""

import numpy as np
import pytest

from search.embed import EmbeddedPart
from search.retrieve import MEAN_PRIOR_ITEMS, retrieve
from sightline.storage.store import Store
from sightline.types import CollectionId, Embeddings, Modality
from tests.search.conftest import commit, new_item

DIM = 16
NUM_PICTURES = 300
NUM_TEXTS = 200
HALF_PRECISION = 2e-3  # rows are stored in fp16: 11 bits a component


def unit_rows(count: int, *, towards: int, seed: int) -> Embeddings:
    """Rows in a cone around one axis, as a network keeps its modalities."""
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    rows[:, towards] += 12
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


PICTURES = unit_rows(NUM_PICTURES, towards=0, seed=1)
TEXTS = unit_rows(NUM_TEXTS, towards=1, seed=2)
QUERY = EmbeddedPart(unit_rows(1, towards=1, seed=3)[0], Modality.TEXT, 1.0)


@pytest.fixture
def collection_id(store: Store) -> CollectionId:
    store.create_collection("default", encoder_name="none", encoder_fingerprint="0", embedding_dim=DIM)
    record = store.collection("default")
    commit(store, record, [new_item(f"{row}.png", Modality.IMAGE) for row in range(NUM_PICTURES)], PICTURES)
    commit(store, record, [new_item(f"notes.txt:{row}", Modality.TEXT, text="words") for row in range(NUM_TEXTS)], TEXTS)
    return record.collection_id


def brute_force_merged(parts_similarity: Embeddings, rows: Embeddings, *, query_centre: Embeddings, k: int) -> Embeddings:
    centre = rows.mean(0) * len(rows) / (len(rows) + MEAN_PRIOR_ITEMS)
    moved = rows - centre
    query = parts_similarity - query_centre
    return np.sort((moved / np.linalg.norm(moved, axis=1, keepdims=True)) @ (query / np.linalg.norm(query)))[::-1][:k]


@pytest.mark.parametrize(("modality", "rows"), [(Modality.IMAGE, PICTURES), (Modality.TEXT, TEXTS)])
def test_within_a_modality_similarities_are_those_of_exact_search(
    store: Store, collection_id: CollectionId, modality: Modality, rows: Embeddings
) -> None:
    found = retrieve(store.snapshot(collection_id), [QUERY], top_k=20, modality=modality)

    exact = np.sort(rows @ QUERY.embedding)[::-1][:20]
    np.testing.assert_allclose([each.similarity for each in found.candidates], exact, atol=HALF_PRECISION)
    assert {each.modality for each in found.candidates} == {modality}
    assert {each.centred_similarity for each in found.candidates} == {None}
    assert f"{modality}s: exact" in found.plan


def test_a_merged_ranking_is_that_of_brute_force_over_centred_rows(store: Store, collection_id: CollectionId) -> None:
    found = retrieve(store.snapshot(collection_id), [QUERY], top_k=40, modality=None)

    text_centre = TEXTS.mean(0) * NUM_TEXTS / (NUM_TEXTS + MEAN_PRIOR_ITEMS)
    by_hand = [brute_force_merged(QUERY.embedding, rows, query_centre=text_centre, k=40) for rows in (PICTURES, TEXTS)]
    exact = np.sort(np.concatenate(by_hand))[::-1][:40]
    np.testing.assert_allclose([each.centred_similarity or 0.0 for each in found.candidates], exact, atol=HALF_PRECISION)
    assert "merged after centring each modality by its own mean" in found.plan


def test_without_centring_no_picture_would_be_among_the_first(store: Store, collection_id: CollectionId) -> None:
    """What the modality gap does, and that centring undoes it."""
    snapshot = store.snapshot(collection_id)
    raw = snapshot.search(QUERY.embedding[np.newaxis], 40, modality=None)[0]
    picture_ids = set(range(1, NUM_PICTURES + 1))
    assert not {each.item_id for each in raw} & picture_ids

    merged = retrieve(snapshot, [QUERY], top_k=40, modality=None).candidates
    assert 10 <= sum(each.modality is Modality.IMAGE for each in merged) <= 35


def test_a_merged_candidate_keeps_its_cosine_too(store: Store, collection_id: CollectionId) -> None:
    snapshot = store.snapshot(collection_id)
    merged = retrieve(snapshot, [QUERY], top_k=10, modality=None).candidates

    rows = snapshot.embeddings(np.asarray([each.item_id for each in merged]))
    np.testing.assert_allclose([each.similarity for each in merged], rows @ QUERY.embedding, atol=1e-6)


def test_a_modality_that_the_collection_lacks_gives_nothing(store: Store) -> None:
    store.create_collection("pictures", encoder_name="none", encoder_fingerprint="0", embedding_dim=DIM)
    record = store.collection("pictures")
    commit(store, record, [new_item("a.png", Modality.IMAGE)], PICTURES[:1])

    assert retrieve(store.snapshot(record.collection_id), [QUERY], top_k=5, modality=Modality.TEXT).candidates == []
    assert len(retrieve(store.snapshot(record.collection_id), [QUERY], top_k=5, modality=None).candidates) == 1


def test_more_than_there_are_gives_all_of_them_once(store: Store, collection_id: CollectionId) -> None:
    found = retrieve(store.snapshot(collection_id), [QUERY], top_k=100_000, modality=None).candidates
    assert len({each.item_id for each in found}) == len(found) == NUM_PICTURES + NUM_TEXTS
