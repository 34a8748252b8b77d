"""Queries answered over a real store: what is found, what is said about it, and what is refused."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search.engine import SearchEngine
from search.query import parse_query
from sightline.encoders.encoder import Encoder
from sightline.errors import CollectionNotFound, EncoderMismatch, InvalidQuery, ItemNotFound, UnreadableImage
from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store
from sightline.types import Modality
from tests.histogram_encoder import HistogramEncoder
from tests.search.conftest import COLOURS, Add


def test_words_find_the_picture(engine: SearchEngine, add: Add, tmp_path: Path) -> None:
    add(pictures=COLOURS)

    answer = engine.search(parse_query("red"), collection="default", top_k=3)

    hit = answer[0]
    assert (hit.rank, hit.key, hit.location) == (1, "red.png", str(tmp_path / "pictures" / "red.png"))
    assert hit.similarity > 0.9
    assert [each.rank for each in answer] == [1, 2, 3]
    assert [each.similarity for each in answer] == sorted((each.similarity for each in answer), reverse=True)
    assert answer.collection == "default"
    assert "exact" in answer.plan


def test_a_picture_finds_the_picture(engine: SearchEngine, add: Add, tmp_path: Path) -> None:
    add(pictures=COLOURS)
    answer = engine.search(parse_query(images=[tmp_path / "pictures" / "blue.png"]), collection="default", top_k=1)

    assert answer[0].key == "blue.png"
    assert answer[0].similarity == pytest.approx(1, abs=1e-3)  # fp16 rows


def test_a_picture_given_as_bytes_is_the_same_as_its_file(engine: SearchEngine, add: Add, tmp_path: Path) -> None:
    add(pictures=COLOURS)
    path = tmp_path / "pictures" / "blue.png"
    answers = [engine.search(parse_query(images=[source]), collection="default") for source in (path, path.read_bytes())]
    assert [hit.similarity for hit in answers[0]] == [hit.similarity for hit in answers[1]]


@pytest.mark.parametrize("query", [parse_query("a green thing"), parse_query("green", modality=Modality.TEXT)])
def test_words_find_the_text(engine: SearchEngine, add: Add, query: object) -> None:
    add(texts=("a red sun", "a green meadow", "a blue sky"))
    answer = engine.search(query, collection="default", top_k=1)  # type: ignore[arg-type]  # both are queries
    assert (answer[0].text, answer[0].modality) == ("a green meadow", Modality.TEXT)


def test_a_picture_finds_the_text(engine: SearchEngine, add: Add, tmp_path: Path) -> None:
    add(pictures=COLOURS, texts=("a red sun", "a green meadow", "a blue sky"))
    query = parse_query(images=[tmp_path / "pictures" / "green.png"], modality=Modality.TEXT)
    assert engine.search(query, collection="default", top_k=1)[0].text == "a green meadow"


def test_both_modalities_are_one_ranking_that_says_so(engine: SearchEngine, add: Add) -> None:
    add(pictures=COLOURS, texts=("a red sun", "a green meadow", "a blue sky"))
    answer = engine.search(parse_query("red"), collection="default", top_k=4)

    assert {hit.key for hit in answer[:2]} == {"red.png", "notes.txt:a red sun"}
    centred = [hit.centred_similarity for hit in answer]
    assert centred == sorted(centred, key=lambda similarity: -(similarity or 0))
    assert "merged after centring" in answer.plan


def test_words_and_a_negative_are_combined(engine: SearchEngine, add: Add) -> None:
    add(texts=("red yellow", "red blue", "blue yellow"))
    answer = engine.search(parse_query("red", without=["blue::1"]), collection="default", top_k=3)
    assert [hit.text for hit in answer] == ["red yellow", "red blue", "blue yellow"]


def test_an_item_finds_its_like_and_not_itself_and_needs_no_network(store: Store, add: Add) -> None:
    add(texts=("red sun", "red moon", "blue sky"))

    def no_encoder(record: CollectionRecord) -> Encoder:
        raise AssertionError("a query by an item loads no encoder")

    engine = SearchEngine(store, no_encoder, max_pixels=1)
    answer = engine.search(parse_query(like=["notes.txt:red sun"]), collection="default", top_k=2)

    assert [hit.text for hit in answer] == ["red moon", "blue sky"]


def test_an_item_that_is_not_there_is_named(engine: SearchEngine, add: Add) -> None:
    add(texts=("red sun",))
    with pytest.raises(ItemNotFound, match="blue sky"):
        engine.search(parse_query(like=["blue sky"]), collection="default")


def test_more_hits_than_items_are_all_items(engine: SearchEngine, add: Add) -> None:
    add(pictures=COLOURS)
    assert len(engine.search(parse_query("red"), collection="default", top_k=100_000)) == len(COLOURS)


def test_an_empty_collection_has_an_empty_answer(engine: SearchEngine, store: Store, encoder: HistogramEncoder) -> None:
    store.create_collection("default", encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, embedding_dim=64)
    answer = engine.search(parse_query("red"), collection="default")
    assert (answer.hits, answer.plan) == ((), "nothing to search")


@pytest.mark.parametrize("top_k", [0, -3, 10**9])
def test_an_absurd_k_is_refused(engine: SearchEngine, add: Add, top_k: int) -> None:
    add(pictures=("red",))
    with pytest.raises(InvalidQuery, match=f"k is {top_k}"):
        engine.search(parse_query("red"), collection="default", top_k=top_k)


def test_an_unknown_collection_gives_the_nearest_names(engine: SearchEngine, add: Add) -> None:
    add(pictures=("red",), collection="holidays")
    with pytest.raises(CollectionNotFound, match="did you mean 'holidays'"):
        engine.search(parse_query("red"), collection="hollidays")


def test_an_encoder_with_other_weights_is_refused_and_told_what_to_do(store: Store, add: Add) -> None:
    add(pictures=("red",))
    engine = SearchEngine(store, lambda _: HistogramEncoder(version="2"), max_pixels=1)
    with pytest.raises(EncoderMismatch, match=r"embedded by histogram with other weights .*`sightline collections delete default`"):
        engine.search(parse_query("red"), collection="default")


def test_a_missing_picture_is_named(engine: SearchEngine, add: Add, tmp_path: Path) -> None:
    add(pictures=("red",))
    with pytest.raises(UnreadableImage, match=r"nowhere\.png: there is no such file"):
        engine.search(parse_query(images=[tmp_path / "nowhere.png"]), collection="default")


def test_an_answer_says_that_the_query_was_cut_and_that_the_encoder_read_less(store: Store, add: Add) -> None:
    class ShortSightedEncoder(HistogramEncoder):
        def is_truncated(self, text: str) -> bool:
            return len(text.split()) > 64

    add(pictures=("red",))
    engine = SearchEngine(store, lambda _: ShortSightedEncoder(), max_pixels=1)
    notes = engine.search(parse_query("red " * 10_000), collection="default").notes

    assert "10,000 words" in notes[0]
    assert notes[1].startswith("histogram read only the beginning of the words 'red red")


def test_the_stages_are_timed(engine: SearchEngine, add: Add) -> None:
    add(pictures=COLOURS)
    timings = engine.search(parse_query("red"), collection="default").timings
    assert min(timings.embed_ms, timings.retrieve_ms, timings.metadata_ms) > 0
    assert timings.total_ms == pytest.approx(timings.embed_ms + timings.retrieve_ms + timings.rerank_ms + timings.metadata_ms)


def test_loading_a_network_is_no_part_of_a_querys_time(store: Store, add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowToLoad(HistogramEncoder):
        """Its first query waits a thousand seconds for each side."""

        def load(self, modality: Modality) -> None:
            if modality not in loaded:
                loaded.append(modality)
                now_s[0] += 1000

    loaded: list[Modality] = []
    now_s = [0.0]
    add(pictures=COLOURS)
    encoder = SlowToLoad()
    engine = SearchEngine(store, lambda _: encoder, max_pixels=1_000_000)
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])

    assert engine.search(parse_query("red"), collection="default").timings.total_ms == 0
    assert loaded == [Modality.TEXT]
    query = parse_query("red", images=[tmp_path / "pictures" / "blue.png"])
    assert engine.search(query, collection="default").timings.total_ms == 0
    assert loaded == [Modality.TEXT, Modality.IMAGE]


def test_a_missing_picture_is_told_before_a_network_is_loaded(store: Store, add: Add, tmp_path: Path) -> None:
    def no_encoder(record: CollectionRecord) -> Encoder:
        raise AssertionError("an encoder was loaded")

    add(pictures=("red",))
    engine = SearchEngine(store, no_encoder, max_pixels=1)
    with pytest.raises(UnreadableImage, match="there is no such file"):
        engine.search(parse_query(images=[tmp_path / "nowhere.png"]), collection="default")


def test_a_deleted_item_is_no_hit(engine: SearchEngine, store: Store, add: Add) -> None:
    (red, _) = add(pictures=("red", "blue"))
    with store.writer() as writer:
        writer.commit(store.collection("default").collection_id, deleted=[red])
    assert [hit.key for hit in engine.search(parse_query("red"), collection="default")] == ["blue.png"]


def test_many_queries_are_answered_as_one_by_one(engine: SearchEngine, add: Add) -> None:
    add(pictures=("red", "green", "blue", "yellow"), texts=("a red car", "a blue sea", "green and yellow"))
    asked = [("red", Modality.IMAGE), ("blue sea", None), ("green", Modality.TEXT), ("red::2 yellow", Modality.IMAGE), ("white", None)]
    queries = [replace(parse_query(words), modality=modality) for words, modality in asked]

    together = engine.search_many(queries, collection="default", top_k=3)

    assert [answer.query for answer in together] == queries
    for query, answer in zip(queries, together, strict=True):
        alone = engine.search(query, collection="default", top_k=3, reranking=None)
        rounding = 1e-6  # sums of products in another order
        expected = [hit.ranking_similarity for hit in alone]
        np.testing.assert_allclose([hit.ranking_similarity for hit in answer], expected, atol=rounding)
        assert (answer.plan, answer.notes, answer.next_place is None) == (alone.plan, alone.notes, alone.next_place is None)
        all_hits = engine.search(query, collection="default", top_k=7, reranking=None)
        assert {(hit.item_id, hit.key) for hit in answer} <= {(hit.item_id, hit.key) for hit in all_hits}
        assert [hit.rank for hit in answer] == [1, 2, 3]


def test_no_queries_have_no_answers(engine: SearchEngine) -> None:
    assert engine.search_many([], collection="default") == []


def test_many_queries_are_of_words_alone(engine: SearchEngine, add: Add) -> None:
    add(pictures=("red",))

    with pytest.raises(InvalidQuery, match="not of words alone"):
        engine.search_many([parse_query("red"), parse_query(like=["red.png"])], collection="default")
