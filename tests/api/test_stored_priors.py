"""Priors of pictures, from indexing to the second look: stored with the patches, each picture's own, and what would be computed then."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from search.readers import WordsOverPatches
from sightline.encoders.composed import ComposedEncoder
from sightline.encoders.fusion_checkpoint import load_fusion_checkpoint
from sightline.encoders.matcher import FusionMatcher
from sightline.storage.store import Store
from sightline.types import ItemId
from tests.api.tiny_fusion import NUM_PICTURES, WORDS, opened, save_fusion

ATOL = 5e-3
"""Half precision, where a processor has it, adds up in an order that depends on the batch."""


@pytest.fixture
def matcher(fusion: Path) -> FusionMatcher:
    return load_fusion_checkpoint(fusion).matcher(torch.device("cpu"))


@pytest.fixture
def folder(pictures: Path, tmp_path: Path) -> Path:
    """The pictures, to be changed."""
    return Path(shutil.copytree(pictures, tmp_path / "photos"))


def prior_by_key(store_folder: Path, matcher: FusionMatcher) -> dict[str, float]:
    """Of every picture of the collection, after comparing each with what its patches give now."""
    with Store.open(store_folder) as store:
        record = store.collection("default")
        snapshot = store.snapshot_of(record)
        id_by_key = {known.key: known.item_id for known in store.known_items(record.collection_id)}
    stored = snapshot.patches(np.array([*id_by_key.values()], dtype=np.int64), fusion_fingerprint=matcher.fingerprint)
    np.testing.assert_allclose(stored.priors, matcher.image_priors(stored.dequantised()), atol=ATOL)
    return dict(zip(id_by_key, stored.priors.tolist(), strict=True))


def test_each_picture_has_its_own_prior_through_replacement_and_compaction(
    tmp_path: Path, folder: Path, tiny_encoder: ComposedEncoder, fusion: Path, matcher: FusionMatcher
) -> None:
    with opened(tmp_path / "store", tiny_encoder, fusion) as sightline:
        sightline.index(folder)
        first = prior_by_key(tmp_path / "store", matcher)
        assert len(set(first.values())) == NUM_PICTURES
        shutil.copyfile(folder / "03.png", folder / "05.png")
        (folder / "07.png").unlink()
        sightline.index(folder, prune=True)
        second = prior_by_key(tmp_path / "store", matcher)
        sightline.compact(force=True)
        third = prior_by_key(tmp_path / "store", matcher)

    assert second.keys() == third.keys() == first.keys() - {"07.png"}
    assert second["05.png"] == pytest.approx(first["03.png"], abs=ATOL)
    assert third == second
    assert {key: second[key] for key in second.keys() - {"05.png"}} == {key: first[key] for key in second.keys() - {"05.png"}}


def test_patches_of_another_fusion_encoder_come_with_its_own_priors(
    store: Path, tmp_path: Path, tiny_encoder: ComposedEncoder, matcher: FusionMatcher
) -> None:
    before = prior_by_key(store, matcher)
    folder = save_fusion(
        tmp_path / "other",
        encoder_fingerprint=tiny_encoder.fingerprint,
        token_dim=tiny_encoder.image_token_dim,
        text_width=tiny_encoder.text_token_dim,
        seed=1,
    )
    other = load_fusion_checkpoint(folder).matcher(torch.device("cpu"))
    with opened(store, tiny_encoder, folder) as sightline:
        assert sightline.add_patches().num_patched == NUM_PICTURES
    after = prior_by_key(store, other)
    assert after.keys() == before.keys()
    assert all(after[key] != before[key] for key in after)


def test_a_query_reads_the_stored_priors_and_gets_what_it_would_compute(
    store: Path, tiny_encoder: ComposedEncoder, matcher: FusionMatcher
) -> None:
    with Store.open(store) as opened_store:
        snapshot = opened_store.snapshot_of(opened_store.collection("default"))
        item_ids = [ItemId(known.item_id) for known in opened_store.known_items(snapshot.collection.collection_id)]
    _, texts = tiny_encoder.embed_texts_with_tokens([WORDS])
    read = WordsOverPatches(snapshot, matcher, texts, weights=[1.0]).read(item_ids)
    stored = snapshot.patches(np.array(item_ids, dtype=np.int64), fusion_fingerprint=matcher.fingerprint)
    plain = matcher.match_logits(texts, stored.dequantised())[0]
    # An alignment counts some thirty times in a logit, and so does what half precision adds to it.
    np.testing.assert_allclose([read[item_id].match_logit for item_id in item_ids], plain, atol=30 * ATOL)

    away = np.full(len(item_ids), 1.0, dtype=np.float32) + stored.priors
    shifted = matcher.match_logits(texts, stored.dequantised(), image_priors=away)[0]
    assert (plain - shifted > 20).all()  # so that a reader which took no priors, or another picture's, would be found out
