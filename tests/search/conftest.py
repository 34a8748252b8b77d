"""Collections with known content, written by the real writer and searched by the real engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.engine import SearchEngine
from sightline.storage.records import CollectionRecord, NewItem
from sightline.storage.store import Store
from sightline.types import Embeddings, ItemId, Modality
from tests.histogram_encoder import HistogramEncoder

COLOURS = ("red", "green", "blue", "yellow", "black", "white")


@pytest.fixture(scope="session")
def encoder() -> HistogramEncoder:
    return HistogramEncoder()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def engine(store: Store, encoder: HistogramEncoder) -> SearchEngine:
    return SearchEngine(store, lambda _: encoder, max_pixels=1_000_000)


Add = Callable[..., list[ItemId]]


@pytest.fixture
def add(store: Store, encoder: HistogramEncoder, tmp_path: Path) -> Add:
    """Adds pictures of one colour (made on disk) and texts to a collection, which it creates where it must."""

    def add(*, pictures: tuple[str, ...] = (), texts: tuple[str, ...] = (), collection: str = "default") -> list[ItemId]:
        record = collection_of(store, collection, encoder)
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        items, rows = [], []
        for name in pictures:
            path = folder / f"{name}.png"
            Image.new("RGB", (40, 30), name).save(path)
            items.append(new_item(f"{name}.png", Modality.IMAGE, source=f"{folder}/"))
            rows.append(encoder.embed_pixels(np.stack([encoder.prepare(Image.open(path).convert("RGB"))])))
        for text in texts:
            items.append(new_item(f"notes.txt:{text}", Modality.TEXT, source=f"{tmp_path}/notes.txt", text=text))
            rows.append(encoder.embed_texts([text]))
        return commit(store, record, items, np.concatenate(rows))

    return add


def collection_of(store: Store, name: str, encoder: HistogramEncoder) -> CollectionRecord:
    if name not in {record.name for record in store.collections()}:
        store.create_collection(
            name, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, embedding_dim=encoder.embedding_dim
        )
    return store.collection(name)


def new_item(key: str, modality: Modality, *, source: str = "/photos/", text: str | None = None) -> NewItem:
    return NewItem(key=key, modality=modality, source=source, content_hash=key, size_bytes=1, mtime_ns=1, text=text)


def commit(store: Store, record: CollectionRecord, items: list[NewItem], embeddings: Embeddings) -> list[ItemId]:
    with store.writer() as writer:
        return writer.commit(record.collection_id, run_id=None, added=items, embeddings=np.ascontiguousarray(embeddings))
