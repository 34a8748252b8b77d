"""Pictures embedded into memory are those that indexing stores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from indexer.in_memory import embed_pictures, scan_pictures
from indexer.options import IndexOptions
from indexer.sources import open_source
from sightline.storage.store import Store
from tests.histogram_encoder import HistogramEncoder
from tests.indexer.corpus import index, items_by_key, write_picture, write_pictures


@pytest.mark.parametrize("batch_images", [1, 4, 32])
def test_embeddings_are_those_of_indexing_in_the_order_of_the_source(store: Store, photos: Path, batch_images: int) -> None:
    write_pictures(photos, 10)
    scanned = scan_pictures(open_source(photos))
    told: list[tuple[int, int]] = []
    options = IndexOptions(batch_images=batch_images)

    embedded = embed_pictures(scanned.items, HistogramEncoder(), options=options, advanced=lambda *how_far: told.append(how_far))

    index(store, photos)
    items = items_by_key(store)
    keys = [item.key for item in embedded.items]
    assert keys == [item.key for item in scanned.items] == sorted(items)
    item_ids = np.asarray([items[key].item_id for key in keys], dtype=np.int64)
    stored = store.snapshot(store.collection("photos").collection_id).embeddings(item_ids)
    np.testing.assert_allclose(embedded.embeddings, stored, atol=1e-3)  # stored in fp16
    assert embedded.skipped == ()
    assert told == [(min(done, 10), 10) for done in range(batch_images, 10 + batch_images, batch_images)]


def test_what_cannot_be_read_is_left_out_with_its_cause(photos: Path) -> None:
    write_picture(photos / "good.png")
    (photos / "bad.png").write_bytes(b"no picture at all")
    (photos / "bad.json").write_text("[1]")
    write_picture(photos / "gone.png")
    (photos / "link.png").symlink_to(photos.parent / "nowhere.png")
    scanned = scan_pictures(open_source(photos))
    (photos / "gone.png").unlink()

    embedded = embed_pictures(scanned.items, HistogramEncoder(), options=IndexOptions(), advanced=lambda *_: None)

    assert [item.key for item in embedded.items] == ["good.png"]
    assert embedded.embeddings.shape == (1, 64)
    assert {skipped.key for skipped in scanned.skipped} == {"bad.json", "link.png"}
    cause_by_key = {skipped.key: skipped.cause for skipped in embedded.skipped}
    assert set(cause_by_key) == {"bad.png", "gone.png"}
    assert cause_by_key["gone.png"] == "No such file or directory"


def test_members_of_shards_and_rows_of_tables_are_read_and_texts_are_not(photos: Path) -> None:
    write_picture(photos / "red.png")
    (photos / "table.csv").write_text("path,text,caption\nred.png,,a red wall\n,only a text,\n")
    scanned = scan_pictures(open_source(photos / "table.csv"))
    assert [(item.key, item.text) for item in scanned.items] == [("red.png", "a red wall")]
    assert len(embed_pictures(scanned.items, HistogramEncoder(), options=IndexOptions(), advanced=lambda *_: None).embeddings) == 1


def test_no_picture_gives_no_rows() -> None:
    embedded = embed_pictures([], HistogramEncoder(), options=IndexOptions(), advanced=lambda *_: None)
    assert embedded.embeddings.shape == (0, 64)


class SquareOnlyEncoder(HistogramEncoder):
    """Trips over what is not square, as some processors do over a picture one pixel high."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        if image.width != image.height:
            raise ValueError("not square")
        return super().prepare(image)


def test_a_shape_that_an_encoder_trips_over_costs_one_picture(photos: Path) -> None:
    write_picture(photos / "good.png")
    Image.new("RGB", (9, 1)).save(photos / "flat.png")
    items = scan_pictures(open_source(photos)).items
    embedded = embed_pictures(items, SquareOnlyEncoder(), options=IndexOptions(), advanced=lambda *_: None)
    assert [item.key for item in embedded.items] == ["good.png"]
    assert embedded.skipped[0].cause == "the encoder cannot take it (ValueError: not square)"
