"""Banks of queries in the life of a collection: taken over from the encoder, kept through upgrades, made from texts and captions."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from indexer import hubness as module
from indexer.banks import collection_banks, encoder_banks, row_biases
from indexer.hubness import HubnessReport, OwnQueries, correct_hubness, leave_hubness
from sightline.encoders.query_bank import QueryBank
from sightline.errors import InvalidInput, InvalidSource, StorageError
from sightline.storage.records import BankRecord, StoredBank
from sightline.storage.store import Store
from sightline.types import Modality
from tests.histogram_encoder import HistogramEncoder
from tests.indexer.corpus import COLOURS, index, items_by_key, write_picture, write_pictures

FP16_TOLERANCE = 1e-3


def bank_of(*texts: str, strength: float = 0.5) -> QueryBank:
    embeddings = HistogramEncoder().embed_texts(list(texts)).astype(np.float16)
    return QueryBank(embeddings, np.full(len(texts), 1 / len(texts), dtype=np.float32), factor=20.0, strength=strength)


def stored_biases(store: Store, modality: Modality = Modality.IMAGE) -> dict[str, float]:
    """The biases in the collection's files, by key."""
    record = store.collection("photos")
    items = store.items(record.collection_id, [known.item_id for known in store.known_items(record.collection_id)])
    found: dict[int, float] = {}
    for segment in store.snapshot(record.collection_id).segments:
        if segment.modality is modality:
            assert segment.files.biases is not None
            found.update(zip(segment.files.item_ids.tolist(), segment.files.biases.tolist(), strict=True))
    return {item.key: found[item_id] for item_id, item in items.items() if item_id in found}


def expected_biases(store: Store, bank: QueryBank) -> dict[str, float]:
    """What the bank gives for the stored embeddings."""
    record = store.collection("photos")
    items = items_by_key(store)
    ids = np.array([item.item_id for item in items.values()], dtype=np.int64)
    embeddings = store.snapshot(record.collection_id).embeddings(ids)
    return dict(zip(items, bank.biases(embeddings).tolist(), strict=True))


def test_a_new_collection_keeps_its_encoders_banks_and_biases_by_them(store: Store, photos: Path) -> None:
    encoder = HistogramEncoder(query_banks={Modality.IMAGE: bank_of("red", "a green hill")})
    index(store, write_pictures(photos, 12), encoder=encoder)

    record = store.collection("photos")
    assert store.banks(record.collection_id) == encoder_banks(encoder)
    assert store.statistics(record.collection_id).banks[0].origin == "of histogram"
    assert stored_biases(store) == pytest.approx(expected_biases(store, bank_of("red", "a green hill")), abs=1e-6)


def test_an_upgraded_encoder_with_another_bank_changes_nothing_for_a_collection_that_is_there(store: Store, photos: Path) -> None:
    before, after = bank_of("red"), bank_of("blue")
    index(store, write_pictures(photos, 6), encoder=HistogramEncoder(query_banks={Modality.IMAGE: before}))
    index(store, write_pictures(photos, 6, start=6), encoder=HistogramEncoder(query_banks={Modality.IMAGE: after}))
    write_picture(photos / "part0" / "00000.png", "yellow", serial=1000)  # replaces an item
    index(store, photos, encoder=HistogramEncoder(query_banks={}))

    biases = stored_biases(store)
    assert len(biases) == 12
    assert biases == pytest.approx(expected_biases(store, before), abs=1e-6)
    assert store.verify() == []


def test_a_collection_of_an_encoder_without_banks_has_none(store: Store, photos: Path) -> None:
    index(store, write_pictures(photos, 3))
    assert store.banks(store.collection("photos").collection_id) == []
    assert row_biases({}, [], np.zeros((0, 64), dtype=np.float32)) is None


def test_texts_are_biased_by_a_bank_of_their_own(store: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a red wall\na blue lake\n")
    bank = bank_of("red")
    index(store, tmp_path / "notes.txt", encoder=HistogramEncoder(query_banks={Modality.TEXT: bank}))
    assert stored_biases(store, Modality.TEXT) == pytest.approx(expected_biases(store, bank), abs=1e-6)


def test_a_bank_that_is_damaged_in_the_catalogue_says_what_to_do(store: Store) -> None:
    banks = [StoredBank(BankRecord(Modality.IMAGE, "b1", 0.5, 1, "made up"), b"no bank")]
    record = store.create_collection("photos", encoder_name="e", encoder_fingerprint="f", embedding_dim=64, banks=banks)
    with pytest.raises(StorageError, match="sightline hubness"):
        collection_banks(store, record.collection_id)


class Progress:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def __call__(self, what: str, num_done: int, num_all: int) -> None:
        assert 0 <= num_done <= num_all
        self.told.add(what)


def correct(store: Store, queries: Path | OwnQueries, *, encoder: HistogramEncoder | None = None) -> HubnessReport:
    return correct_hubness(store, store.collection("photos"), queries, encoder or HistogramEncoder(), advanced=Progress())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("queries.txt", "red\n\na green hill\n"),
        ("queries.csv", "text,asked\nred,7\na green hill,1\n"),
        ("queries.jsonl", '{"text": "red"}\n["a green hill"]\n'),
    ],
)
def test_a_file_of_queries_is_read_as_a_source_of_texts_is(store: Store, photos: Path, tmp_path: Path, name: str, content: str) -> None:
    index(store, write_pictures(photos, 12))
    (tmp_path / name).write_text(content)

    report = correct(store, tmp_path / name)

    (bank,) = report.banks
    assert (bank.modality, bank.num_queries, bank.strength, bank.fitted, bank.num_items) == (Modality.IMAGE, 2, 0.5, None, 12)
    assert bank.origin == f"2 texts of {name}"
    assert stored_biases(store) == pytest.approx(expected_biases(store, bank_of("red", "a green hill")), abs=1e-6)
    assert store.verify() == []


def test_lines_that_are_no_query_are_counted(store: Store, photos: Path, tmp_path: Path) -> None:
    index(store, write_pictures(photos, 3))
    (tmp_path / "queries.jsonl").write_text('{"text": "red"}\nno json\n{"text": ""}\n')
    assert correct(store, tmp_path / "queries.jsonl").num_unreadable == 2


def test_a_file_without_queries_is_refused_and_changes_nothing(store: Store, photos: Path, tmp_path: Path) -> None:
    index(store, write_pictures(photos, 3))
    (tmp_path / "queries.txt").write_text("\n  \n")
    with pytest.raises(InvalidSource, match="holds no query"):
        correct(store, tmp_path / "queries.txt")
    with pytest.raises(InvalidSource, match="does not exist"):
        correct(store, tmp_path / "nowhere.txt")
    assert store.banks(store.collection("photos").collection_id) == []


def write_captioned(folder: Path, captions: Iterable[str]) -> None:
    """A picture a caption; those of one colour look alike."""
    for number, caption in enumerate(captions):
        colour = next((word for word in caption.split() if word in COLOURS), "white")
        path = write_picture(folder / f"{number:04d}.png", colour, serial=number)
        path.with_suffix(".txt").write_text(caption)


def test_captions_make_a_bank_and_those_held_out_judge_it(store: Store, photos: Path) -> None:
    write_captioned(photos, [f"{COLOURS[number % 6]} thing number {number}" for number in range(240)])
    index(store, photos)

    (bank,) = correct(store, OwnQueries.CAPTIONS).banks

    assert bank.origin == "240 captions"
    assert bank.num_queries == 240
    assert bank.fitted is not None
    assert 50 < bank.fitted.num_queries < 240  # about half, by a digest of their keys
    assert bank.strength == bank.fitted.strength
    assert bank.fitted.mrr >= bank.fitted.mrr_before
    assert bank.fitted.hit_rate_at_1 >= bank.fitted.hit_rate_at_1_before
    captions = [str(item.text) for item in items_by_key(store).values()]
    assert stored_biases(store) == pytest.approx(expected_biases(store, bank_of(*captions)), abs=FP16_TOLERANCE)


class GivenEncoder(HistogramEncoder):
    """Embeds the picture of serial n and the caption "number n" as rows n of what it is given."""

    def __init__(self, *, pictures: NDArray[np.float32], texts: NDArray[np.float32]) -> None:
        super().__init__(version="given")
        self._pictures = pictures
        self._texts = texts

    @property
    def embedding_dim(self) -> int:
        return int(self._texts.shape[1])

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        pixels = np.asarray(image)[0, :3, 0].astype(np.int64)  # where `write_picture` puts the serial
        return np.asarray(pixels @ [1, 256, 65536])

    def embed_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(self._pictures[pixels])

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._texts[[int(text.removeprefix("number ")) for text in texts]]


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("hub_height", [0.0, 1.0])
def test_the_strength_is_what_helps_and_none_where_nothing_does(store: Store, photos: Path, hub_height: float) -> None:
    """Texts lie in a cone; every seventh picture leans towards its axis, and so is near every text, or none does."""
    generator = np.random.default_rng(0)
    axis = np.eye(1, 24)
    texts = unit(unit(generator.normal(size=(280, 24))) + axis)
    is_hub = (np.arange(280) % 7 == 0)[:, np.newaxis]
    pictures = unit(texts + 0.7 * unit(generator.normal(size=(280, 24))) + hub_height * is_hub * axis)
    encoder = GivenEncoder(pictures=pictures, texts=texts)
    write_captioned(photos, [f"number {number}" for number in range(280)])
    index(store, photos, encoder=encoder)

    (bank,) = correct(store, OwnQueries.CAPTIONS, encoder=encoder).banks

    assert bank.fitted is not None
    applied = store.snapshot(store.collection("photos").collection_id).bank(Modality.IMAGE)
    assert applied is not None
    assert applied.strength == bank.strength == bank.fitted.strength
    if hub_height:
        assert bank.fitted.helps
        assert bank.fitted.hit_rate_at_1 >= bank.fitted.hit_rate_at_1_before + 5
    else:
        assert bank.fitted.hit_rate_at_1 >= bank.fitted.hit_rate_at_1_before


def test_with_few_captions_nothing_is_measured_and_half_is_taken_off(store: Store, photos: Path) -> None:
    write_captioned(photos, ["red wall", "green hill"])
    index(store, photos)
    (bank,) = correct(store, OwnQueries.CAPTIONS).banks
    assert (bank.fitted, bank.strength) == (None, 0.5)


def test_without_captions_there_is_no_bank_of_them(store: Store, photos: Path) -> None:
    index(store, write_pictures(photos, 3))
    with pytest.raises(InvalidInput, match="no captions; make a bank of queries with --queries FILE"):
        correct(store, OwnQueries.CAPTIONS)


def test_the_encoders_bank_is_applied_with_its_own_strength(store: Store, photos: Path) -> None:
    index(store, write_pictures(photos, 6))
    encoder = HistogramEncoder(query_banks={Modality.IMAGE: bank_of("red", strength=0.75), Modality.TEXT: bank_of("blue", strength=0.25)})
    report = correct(store, OwnQueries.ENCODER, encoder=encoder)
    assert [(bank.modality, bank.strength, bank.num_items) for bank in report.banks] == [
        (Modality.IMAGE, 0.75, 6),
        (Modality.TEXT, 0.25, 0),
    ]
    assert stored_biases(store) == pytest.approx(expected_biases(store, bank_of("red")), abs=1e-6)
    with pytest.raises(InvalidInput, match="histogram brings no bank"):
        correct(store, OwnQueries.ENCODER)


def test_leaving_it_ranks_by_similarity_again(store: Store, photos: Path, tmp_path: Path) -> None:
    index(store, write_pictures(photos, 6))
    (tmp_path / "queries.txt").write_text("red\n")
    correct(store, tmp_path / "queries.txt")
    record = store.collection("photos")
    assert store.snapshot(record.collection_id).bank(Modality.IMAGE) is not None
    leave_hubness(store, record)
    assert store.snapshot(record.collection_id).bank(Modality.IMAGE) is None
    index(store, write_pictures(photos, 3, start=6))
    assert store.verify() == []


def test_items_that_come_later_are_biased_by_the_new_bank(store: Store, photos: Path, tmp_path: Path) -> None:
    index(store, write_pictures(photos, 6))
    (tmp_path / "queries.txt").write_text("blue\n")
    correct(store, tmp_path / "queries.txt")
    index(store, write_pictures(photos, 6, start=6))
    assert stored_biases(store) == pytest.approx(expected_biases(store, bank_of("blue")), abs=1e-6)


def test_many_queries_and_captions_are_drawn_evenly(store: Store, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("MAX_QUERIES", 40), ("MAX_PICTURES", 150), ("MAX_VALIDATION_QUERIES", 55), ("NUM_CENTROIDS", 8)):
        monkeypatch.setattr(module, name, most)
    write_captioned(photos, [f"{COLOURS[number % 6]} thing number {number}" for number in range(240)])
    write_pictures(photos / "more", 30)  # without captions: only in the way
    index(store, photos)
    (bank,) = correct(store, OwnQueries.CAPTIONS).banks
    assert bank.origin == "150 captions"
    assert bank.num_queries <= 8
    assert bank.num_items == 270
    assert bank.fitted is not None
    assert bank.fitted.num_queries == 55


def test_it_tells_how_far_it_is(store: Store, photos: Path) -> None:
    write_captioned(photos, [f"{COLOURS[number % 6]} thing number {number}" for number in range(240)])
    index(store, photos)
    progress = Progress()
    correct_hubness(store, store.collection("photos"), OwnQueries.CAPTIONS, HistogramEncoder(), advanced=progress)
    assert progress.told == {"embedding queries", "embedding captions that judge", "biasing images"}
