"""What gathers between commits: items of several batches with their rows, biases and patches."""

import numpy as np

from indexer.banks import collection_banks
from indexer.commit_buffer import CommitBuffer
from indexer.options import IndexOptions
from indexer.progress import SilentProgress
from sightline.storage.patches import PatchFormat, quantised_batch
from sightline.storage.records import NewItem
from sightline.storage.store import Store
from sightline.types import Modality
from tests.histogram_encoder import HistogramEncoder

PATCHES = PatchFormat("fusion", 1, 2, 4)


def _items(*keys: str, modality: Modality = Modality.IMAGE) -> list[NewItem]:
    return [NewItem(key, modality, "/photos", key, 1, 1) for key in keys]


def test_patches_of_some_batches_stay_with_their_items(store: Store) -> None:
    encoder = HistogramEncoder()
    record = store.create_collection("photos", encoder_name="histogram", encoder_fingerprint=encoder.fingerprint, embedding_dim=64)
    cid, rows = record.collection_id, np.random.default_rng(0).standard_normal((4, 2, 4)).astype(np.float32)
    with store.writer() as writer:
        run_id, banks = writer.start_run(cid, "/photos"), collection_banks(store, cid)
        buffer = CommitBuffer(writer, cid, run_id, banks=banks, options=IndexOptions(), progress=SilentProgress())
        buffer.add(_items("a text", modality=Modality.TEXT), encoder.embed_texts(["red"]))
        buffer.add(_items("a", "b"), encoder.embed_texts(["red", "blue"]), patches=quantised_batch(rows[:2], PATCHES))
        buffer.add(_items("c"), encoder.embed_texts(["black"]))
        buffer.add(_items("d", "e"), encoder.embed_texts(["white", "green"]), patches=quantised_batch(rows[2:], PATCHES))
        buffer.commit()
        buffer.add(_items("f"), encoder.embed_texts(["yellow"]))
        buffer.commit()
    snapshot, ids = store.snapshot(cid), {known.key: known.item_id for known in store.known_items(cid)}
    has_some = snapshot.has_patches(np.array([*ids.values()]), fusion_fingerprint="fusion")
    assert {key for key, has in zip(ids, has_some, strict=True) if has} == set("abde")
    found = snapshot.patches(np.array([ids[key] for key in "abde"]), fusion_fingerprint="fusion")
    np.testing.assert_array_equal(found.values, quantised_batch(rows, PATCHES).values)
