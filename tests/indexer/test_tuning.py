"""The texts that an index of pictures is tuned with."""

import logging
from pathlib import Path

import numpy as np
import pytest

from indexer.tuning import NUM_QUERIES, query_texts, tuning_queries
from sightline.encoders.encoder import Encoder
from sightline.errors import EncoderUnavailable
from sightline.storage.store import Store
from tests.histogram_encoder import HistogramEncoder
from tests.indexer.corpus import index, write_pictures


def _unwanted() -> Encoder:
    raise AssertionError("no network is needed")


def _unavailable() -> Encoder:
    raise EncoderUnavailable("its folder is gone")


def test_the_texts_are_many_different_and_always_the_same() -> None:
    texts = query_texts()
    assert len(texts) == len(set(texts)) == NUM_QUERIES
    assert texts == query_texts()
    assert "a dog" in texts
    assert all(text == text.strip() for text in texts)


def test_a_large_collection_of_pictures_is_tuned_with_texts(store: Store, photos: Path) -> None:
    index(store, write_pictures(photos, 6))
    queries = tuning_queries(store, store.collection("photos"), HistogramEncoder, min_rows=5)
    assert queries is not None
    np.testing.assert_array_equal(queries, HistogramEncoder().embed_texts(query_texts()))


def test_a_small_collection_loads_no_network(store: Store, photos: Path) -> None:
    index(store, write_pictures(photos, 6))
    assert tuning_queries(store, store.collection("photos"), _unwanted, min_rows=6) is None


def test_without_its_encoder_stored_rows_must_do(store: Store, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    index(store, write_pictures(photos, 6))
    with caplog.at_level(logging.WARNING):
        assert tuning_queries(store, store.collection("photos"), _unavailable, min_rows=0) is None
    assert "its folder is gone" in caplog.text
