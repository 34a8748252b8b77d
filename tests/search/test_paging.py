"""Pages of one answer: together they are the answer, and writes between them neither repeat nor lose a hit."""

from collections.abc import Sequence

import numpy as np
import pytest

from search.embed import EmbeddedPart
from search.engine import SearchEngine
from search.paging import MAX_SHOWN, Ahead, Page, Place, first_page, page_after
from search.query import GivenEmbedding, Query, parse_query
from search.rerank import Look, SecondLook
from search.retrieve import retrieve
from sightline.errors import InvalidQuery
from sightline.storage.records import CollectionRecord
from sightline.storage.store import Store
from sightline.types import Embeddings, ItemId, Modality
from tests.histogram_encoder import HistogramEncoder
from tests.search.conftest import Add, commit, new_item

DIM = 8
QUERY = np.eye(DIM, dtype=np.float32)[0]


def unit_rows(generator: np.random.Generator, count: int) -> Embeddings:
    rows = generator.normal(size=(count, DIM)).astype(np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.fixture
def record(store: Store) -> CollectionRecord:
    store.create_collection("default", encoder_name="none", encoder_fingerprint="0", embedding_dim=DIM)
    return store.collection("default")


def add_rows(store: Store, record: CollectionRecord, keys: Sequence[str], rows: Embeddings, *, modality: Modality) -> list[ItemId]:
    return commit(store, record, [new_item(key, modality, text="words") for key in keys], rows)


class Reader:
    """Reads page after page of what is closest to `QUERY`, with a second look of its own making where it has a depth."""

    def __init__(self, store: Store, record: CollectionRecord, *, depth: int, ends: bool = False) -> None:
        self.store, self.record, self.depth, self.ends = store, record, depth, ends
        self.parts = [EmbeddedPart(QUERY, Modality.TEXT, 1.0)]
        self.pages: list[Page] = []

    @property
    def item_ids(self) -> list[ItemId]:
        return [each.item_id for page in self.pages for each in page.candidates]

    def read(self, top_k: int) -> Place | None:
        snapshot = self.store.snapshot(self.record.collection_id)
        if self.pages:
            place = self.pages[-1].next_place
            assert place is not None
            page = page_after(place, snapshot, self.parts, top_k=top_k, modality=None, liked=())
        else:
            count = max(top_k, self.depth) + 1
            found = retrieve(snapshot, self.parts, top_k=count, modality=None)
            second = self._second(found.candidates) if self.depth else None
            newest_id = snapshot.newest_item_id()
            page = first_page(found.candidates, second, plan="", newest_id=newest_id, top_k=top_k, depth=self.depth, ends=self.ends)
        self.pages.append(page)
        return page.next_place

    def _second(self, candidates: Sequence[object]) -> SecondLook:
        """The first `depth` in the order of their ids, which is none that similarity makes."""
        ranked = list(retrieve(self.store.snapshot(self.record.collection_id), self.parts, top_k=len(candidates), modality=None).candidates)
        read = sorted(range(min(self.depth, len(ranked))), key=lambda place: ranked[place].item_id)
        order = read if self.ends else [*read, *range(len(read), len(ranked))]
        looks = tuple(Look(place + 1, 1.0, 0.75) if place in read else Look(place + 1, None, None) for place in order)
        return SecondLook(tuple(ranked[place] for place in order), looks, len(read), len(read), 1.0, 0)


@pytest.mark.parametrize("depth", [0, 7, 25])
@pytest.mark.parametrize("both", [False, True])
def test_pages_together_are_the_whole_ranking(store: Store, record: CollectionRecord, depth: int, both: bool) -> None:
    generator = np.random.default_rng(3)
    add_rows(store, record, [f"{n}.png" for n in range(40)], unit_rows(generator, 40), modality=Modality.IMAGE)
    if both:
        add_rows(store, record, [f"n:{n}" for n in range(11)], unit_rows(generator, 11), modality=Modality.TEXT)
    whole, paged = Reader(store, record, depth=depth), Reader(store, record, depth=depth)

    assert whole.read(100) is None
    while paged.read(6) is not None:
        pass

    assert paged.item_ids == whole.item_ids
    assert len(paged.item_ids) == (51 if both else 40)
    if depth:
        looks = [[look for page in reader.pages for look in page.looks] for reader in (paged, whole)]
        assert [(look.first_rank, look.match_probability) for look in looks[0]] == [
            (look.first_rank, look.match_probability) for look in looks[1]
        ]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_written_between_pages_no_hit_comes_twice_and_none_is_lost(store: Store, record: CollectionRecord, seed: int) -> None:
    generator = np.random.default_rng(seed)
    old = add_rows(store, record, [f"{n}.png" for n in range(60)], unit_rows(generator, 60), modality=Modality.IMAGE)
    reader = Reader(store, record, depth=int(generator.choice([0, 10, 30])))
    deleted: set[ItemId] = set()
    place = reader.read(5)
    for number in range(100):
        if place is None:
            break
        closer = unit_rows(generator, 9) + 3 * QUERY  # newcomers that would be the first
        added = np.ascontiguousarray(closer / np.linalg.norm(closer, axis=1, keepdims=True))
        add_rows(store, record, [f"new-{number}-{n}.png" for n in range(9)], added, modality=Modality.IMAGE)
        changed = [f"{n}.png" for n in generator.choice(60, size=4, replace=False) if old[n] not in deleted]
        add_rows(store, record, changed, unit_rows(generator, len(changed)), modality=Modality.IMAGE)
        gone = [old[n] for n in generator.choice(60, size=1) if old[n] not in deleted]
        with store.writer() as writer:
            writer.commit(record.collection_id, run_id=None, added=[], embeddings=np.empty((0, DIM), np.float32), deleted=gone)
        deleted |= set(gone)
        if number == 3:
            with store.writer() as writer:
                writer.compact(record.collection_id, force=True)
        place = reader.read(int(generator.integers(1, 9)))

    assert place is None
    assert len(reader.item_ids) == len(set(reader.item_ids))
    assert set(old) - deleted <= set(reader.item_ids) <= set(old)


def test_what_a_second_look_left_out_comes_on_no_page(store: Store, record: CollectionRecord) -> None:
    add_rows(store, record, [f"{n}.png" for n in range(30)], unit_rows(np.random.default_rng(5), 30), modality=Modality.IMAGE)
    reader = Reader(store, record, depth=8, ends=True)

    while reader.read(3) is not None:
        pass

    assert [len(page.candidates) for page in reader.pages] == [3, 3, 2]


def test_pages_end_at_a_bound(store: Store, record: CollectionRecord) -> None:
    ids = add_rows(store, record, [f"{n}.png" for n in range(3)], unit_rows(np.random.default_rng(5), 3), modality=Modality.IMAGE)
    shown = frozenset(ItemId(10_000 + n) for n in range(MAX_SHOWN - 2))  # two more may come
    place = Place(ids[-1], shown, (Ahead(ids[0], 1, None),), has_tail=True, has_second_look=True)
    reader = Reader(store, record, depth=0)
    snapshot = store.snapshot(record.collection_id)

    one = page_after(place, snapshot, reader.parts, top_k=1, modality=None, liked=())
    assert one.next_place is not None
    two = page_after(one.next_place, snapshot, reader.parts, top_k=1, modality=None, liked=())

    assert two.next_place is None
    assert len(one.candidates) == len(two.candidates) == 1


def test_an_engine_reads_on_where_its_answer_ended(engine: SearchEngine, add: Add) -> None:
    add(pictures=("red", "green", "blue", "yellow"), texts=("red house", "green field"))
    query = parse_query("red")
    first = engine.search(query, collection="default", top_k=4)
    assert first.next_place is not None

    second = engine.search_on(query, collection="default", place=first.next_place, top_k=4)

    assert [hit.rank for hit in (*first, *second)] == [1, 2, 3, 4, 5, 6]
    assert second.next_place is None
    assert [hit.item_id for hit in (*first, *second)] == [hit.item_id for hit in engine.search(query, collection="default", top_k=6)]


def test_an_embedding_of_any_length_finds_what_its_words_find(engine: SearchEngine, add: Add, encoder: HistogramEncoder) -> None:
    add(pictures=("red", "green", "blue"))
    by_words = engine.search(parse_query("red"), collection="default")
    row = encoder.embed_texts(["red"])[0] * 7

    by_embedding = engine.search(Query((GivenEmbedding(row, Modality.TEXT),)), collection="default")

    assert [hit.key for hit in by_embedding] == [hit.key for hit in by_words]
    np.testing.assert_allclose([h.similarity for h in by_embedding], [h.similarity for h in by_words], atol=1e-6)


@pytest.mark.parametrize("values", [[0.0] * 64, [float("nan")] * 64, [float("inf"), *[0.0] * 63], [[1.0] * 64]])
def test_what_is_no_direction_is_no_embedding(values: list[float]) -> None:
    with pytest.raises(InvalidQuery, match="the embedding"):
        GivenEmbedding(np.array(values, dtype=np.float32), Modality.TEXT)


def test_an_embedding_of_another_width_is_told_both_widths(engine: SearchEngine, add: Add) -> None:
    add(pictures=("red",))
    with pytest.raises(InvalidQuery, match=r"has 3 numbers, and those of the collection have 64"):
        engine.search(Query((GivenEmbedding(np.ones(3, np.float32), Modality.TEXT),)), collection="default")
