"""What is taken off of the hubness bias: in a ranking of one modality, as far as the query is of the other."""

from pathlib import Path

import numpy as np
import pytest

from search.embed import EmbeddedPart
from search.engine import SearchEngine
from search.evaluator import Embedded, ask_collection, tell_nobody
from search.judgements import DescribedPicture, judged_texts
from search.query import Query, Words, parse_query
from search.retrieve import crossing_share
from sightline.encoders.query_bank import QueryBank
from sightline.storage.records import BankRecord, StoredBank
from sightline.storage.store import Store
from sightline.types import ItemId, Modality
from tests.histogram_encoder import HistogramEncoder
from tests.search.conftest import Add

STRENGTH = 0.5
BIAS_BY_COLOUR = {"red": 0.8, "green": 0.1, "blue": 0.2}


@pytest.fixture
def item_ids(store: Store, add: Add, encoder: HistogramEncoder) -> list[ItemId]:
    """Three pictures, of which the red one is near every query; and a text."""
    ids = add(pictures=tuple(BIAS_BY_COLOUR))
    add(texts=("a red wall",))
    give_bank(store, strength=STRENGTH)
    return ids


def give_bank(store: Store, *, strength: float) -> None:
    """Biases by the row: the pictures were added in the order of `BIAS_BY_COLOUR`."""
    record = store.collection("default")
    stored = StoredBank(BankRecord(Modality.IMAGE, "b1", strength, 1, "made up"), b"")
    biases = np.array([*BIAS_BY_COLOUR.values()], dtype=np.float32)
    with store.writer() as writer:
        writer.replace_bank(record.collection_id, stored, lambda _: biases)


def of(modality: Modality, weight: float = 1.0) -> EmbeddedPart:
    return EmbeddedPart(np.ones(2, dtype=np.float32), modality, weight)


@pytest.mark.parametrize(
    ("parts", "share"),
    [
        ([of(Modality.TEXT)], 1.0),
        ([of(Modality.IMAGE)], 0.0),
        ([of(Modality.TEXT), of(Modality.IMAGE)], 0.5),
        ([of(Modality.TEXT, 0.5), of(Modality.IMAGE, 1.5)], 0.25),
        ([of(Modality.TEXT, 2), of(Modality.TEXT, 1)], 1.0),
        ([of(Modality.IMAGE), of(Modality.TEXT, -0.5)], 0.0),  # what is stayed away from is not looked for
        ([of(Modality.TEXT), of(Modality.IMAGE, -5)], 1.0),
    ],
)
def test_the_share_is_that_of_what_is_looked_for(parts: list[EmbeddedPart], share: float) -> None:
    assert crossing_share(parts, Modality.IMAGE) == pytest.approx(share)
    assert crossing_share(parts, Modality.TEXT) == pytest.approx(1 - share)


def test_words_rank_pictures_by_what_is_left(engine: SearchEngine, item_ids: list[ItemId]) -> None:
    """ "red green" is as near to the red picture as to the green one."""
    answer = engine.search(parse_query("red green", modality=Modality.IMAGE), collection="default")
    texts = engine.search(parse_query("red green", modality=Modality.TEXT), collection="default")

    assert [hit.key for hit in answer] == ["green.png", "red.png", "blue.png"]
    for hit in answer:
        bias = BIAS_BY_COLOUR[hit.key.removesuffix(".png")]
        assert hit.adjusted_similarity == pytest.approx(hit.similarity - STRENGTH * bias, abs=1e-5)
        assert hit.ranking_similarity == hit.adjusted_similarity
    ranked = [hit.ranking_similarity for hit in answer]
    assert ranked == sorted(ranked, reverse=True)
    assert answer.plan == "images: exact over 3 rows, 0.5 of the hubness bias taken off"
    assert [hit.adjusted_similarity for hit in texts] == [None]


def test_a_picture_ranks_pictures_by_their_similarity(engine: SearchEngine, item_ids: list[ItemId], tmp_path: Path) -> None:
    for query in (
        parse_query(images=[tmp_path / "pictures" / "red.png"], modality=Modality.IMAGE),
        parse_query(like=["green.png"], modality=Modality.IMAGE),
    ):
        answer = engine.search(query, collection="default")
        assert {hit.adjusted_similarity for hit in answer} == {None}
        assert [hit.ranking_similarity for hit in answer] == [hit.similarity for hit in answer]
        assert "hubness" not in answer.plan


def test_a_picture_changed_by_words_is_ranked_by_their_share(engine: SearchEngine, item_ids: list[ItemId], tmp_path: Path) -> None:
    query = parse_query("green", images=[Path(f"{tmp_path / 'pictures' / 'blue.png'}::3")], modality=Modality.IMAGE)
    for hit in engine.search(query, collection="default"):
        bias = BIAS_BY_COLOUR[hit.key.removesuffix(".png")]
        assert hit.adjusted_similarity == pytest.approx(hit.similarity - STRENGTH * bias / 4, abs=1e-5)


def test_a_merged_ranking_is_centred_and_takes_nothing_off(engine: SearchEngine, item_ids: list[ItemId]) -> None:
    answer = engine.search(parse_query("red"), collection="default")
    assert {hit.modality for hit in answer} == {Modality.IMAGE, Modality.TEXT}
    assert {hit.adjusted_similarity for hit in answer} == {None}
    assert [hit.ranking_similarity for hit in answer] == [hit.centred_similarity for hit in answer]
    assert "hubness" not in answer.plan


def test_a_bank_of_no_strength_changes_nothing(engine: SearchEngine, store: Store, item_ids: list[ItemId]) -> None:
    give_bank(store, strength=0.0)
    answer = engine.search(parse_query("red", modality=Modality.IMAGE), collection="default")
    assert answer[0].key == "red.png"
    assert {hit.adjusted_similarity for hit in answer} == {None}
    assert "hubness" not in answer.plan


def test_a_run_over_a_collection_is_ordered_by_what_is_left(engine: SearchEngine, item_ids: list[ItemId]) -> None:
    described = [DescribedPicture(f"{colour}.png", (f"red {colour}",)) for colour in BIAS_BY_COLOUR]
    judged = judged_texts(described, name="colours")
    measured = ask_collection(engine, judged, collection="default", num_pictures=3, depth=10, advanced=tell_nobody)
    for query, ranking in measured.run.ranking_by_query.items():
        answer = engine.search(Query((Words(judged.text_by_query[query]),), modality=Modality.IMAGE), collection="default")
        assert list(ranking.run_scores) == [hit.ranking_similarity for hit in answer]
        assert list(ranking.run_scores) == sorted(ranking.run_scores, reverse=True)


def test_what_is_found_in_memory_is_corrected_by_the_strength(encoder: HistogramEncoder) -> None:
    bank = QueryBank(encoder.embed_texts(["red"]).astype(np.float16), np.ones(1, dtype=np.float32), factor=20.0, strength=0.5)
    candidates = Embedded(["a", "b"], encoder.embed_texts(["red", "blue"]), embed_ms=0.0)
    corrected = candidates.corrected(bank)
    assert corrected.taken_off is not None
    np.testing.assert_allclose(corrected.taken_off, [0.5, 0.0], atol=1e-3)  # half of the similarity to the only query, in fp16
    assert candidates.corrected(None) is candidates
    assert candidates.corrected(bank.with_strength(0.0)) is candidates
