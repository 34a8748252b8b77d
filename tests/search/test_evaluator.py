"""Judged texts asked of a real collection give what exact search over the same embeddings gives."""

import numpy as np
import pytest

from search.engine import SearchEngine
from search.evaluation import Metric
from search.evaluator import Embedded, ask_collection, embed_judged, image_to_text, tell_nobody, text_to_image
from search.judgements import DescribedPicture, judged_texts
from sightline.storage.store import Store
from sightline.types import ItemIds
from tests.histogram_encoder import HistogramEncoder
from tests.search.conftest import COLOURS, Add

DESCRIBED = [DescribedPicture(f"{colour}.png", (f"a {colour} wall", colour) if colour != "white" else ()) for colour in COLOURS]


@pytest.fixture
def pictures(add: Add, store: Store) -> Embedded:
    """Six pictures in a collection, and a text that is no picture, with the embeddings as they are stored."""
    item_ids: ItemIds = np.asarray(add(pictures=COLOURS), dtype=np.int64)
    add(texts=("a red wall",))
    embeddings = store.snapshot(store.collection("default").collection_id).embeddings(item_ids)
    return Embedded([f"{colour}.png" for colour in COLOURS], embeddings, embed_ms=0.0)


def test_a_collection_is_asked_as_it_is_searched(engine: SearchEngine, encoder: HistogramEncoder, pictures: Embedded) -> None:
    judged = judged_texts(DESCRIBED, name="colours")
    told: list[tuple[str, int, int]] = []

    asked = ask_collection(engine, judged, collection="default", num_pictures=6, depth=10, advanced=lambda *how_far: told.append(how_far))
    exact = text_to_image(judged, texts=embed_judged(judged, encoder, advanced=tell_nobody), pictures=pictures, depth=10)

    assert asked.percent_by_metric()[Metric.HIT_RATE_AT_1] == 100
    assert asked.percent_by_metric() == exact.percent_by_metric()
    assert list(asked.run.ranking_by_query) == list(exact.run.ranking_by_query) == list(judged.text_by_query)
    for query, ranking in asked.run.ranking_by_query.items():
        # The same fp16 rows, multiplied by another library.
        np.testing.assert_allclose(ranking.run_scores, exact.run.ranking_by_query[query].run_scores, atol=1e-3)
        assert set(ranking.keys) == set(pictures.keys)
    assert asked.plan.startswith("images: exact")
    assert asked.times.embed_ms > 0
    assert asked.times.search_ms > 0
    assert told == [("asking", 10, 10)]


def test_pictures_with_captions_ask_for_them(encoder: HistogramEncoder, pictures: Embedded) -> None:
    judged = judged_texts(DESCRIBED, name="colours")
    captions = embed_judged(judged, encoder, advanced=tell_nobody)

    measured = image_to_text(DESCRIBED, pictures=pictures, captions=captions, depth=10)

    assert list(measured.run.ranking_by_query) == [f"{colour}.png" for colour in COLOURS if colour != "white"]
    assert measured.run.ranking_by_query["red.png"].keys[0] == "red.png#2"  # "red" says nothing but red
    assert measured.num_candidates == 10
    values = measured.percent_by_metric()
    assert (values[Metric.HIT_RATE_AT_1], values[Metric.PRECISION_AT_10]) == (100, 20)


def test_a_run_keeps_as_many_keys_as_were_asked_for(engine: SearchEngine, pictures: Embedded) -> None:
    judged = judged_texts(DESCRIBED, name="colours")
    asked = ask_collection(engine, judged, collection="default", num_pictures=6, depth=2, advanced=tell_nobody)
    assert {len(ranking.keys) for ranking in asked.run.ranking_by_query.values()} == {2}
