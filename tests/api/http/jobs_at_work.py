"""A service with jobs, and what tests of them need: sources, and waiting for something without guessing how long it takes."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from api import open_store
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings
from sightline.settings import Settings

DEADLINE_S = 300.0
COMMIT_ITEMS = 100


@dataclass(frozen=True)
class AtWork:
    """A client of a service that runs."""

    client: TestClient
    service: Service

    def queue(self, **body: object) -> Any:
        """A job that was queued."""
        response = self.client.post("/v1/jobs", json=body)
        assert response.status_code == 202, response.text
        return response.json()

    def ended(self, job: Any) -> Any:
        """The job once it has ended: what the last of its events says."""
        stream = self.client.get(f"/v1/jobs/{job['job_id']}/events").text
        return json.loads(stream.strip().rpartition("data: ")[2])

    def job(self, job: Any) -> Any:
        """The job now."""
        return self.client.get(f"/v1/jobs/{job['job_id']}").json()

    def num_items(self, collection: str = "default") -> int:
        """How many a search finds; 0 where the collection is not there yet."""
        found = {record.name for record in self.service.sightline.collections()}
        return len(self.items(collection)) if collection in found else 0

    def items(self, collection: str = "default") -> dict[str, str]:
        """Content hash by key, of items that a search finds."""
        store = self.service.sightline.store
        return {item.key: item.content_hash for item in store.known_items(store.collection(collection).collection_id)}


@contextmanager
def at_work(
    store: Path,
    *,
    encoder: Path,
    source_roots: tuple[Path, ...],
    commit_items: int = COMMIT_ITEMS,
    fusion: Path | None = None,
    database_url: str | None = None,
    limits: Mapping[str, float] | None = None,
) -> Iterator[AtWork]:
    """A service over the store that commits often; `limits` are settings of it."""
    library = Settings(
        store=store,
        device="cpu",
        commit_items=commit_items,
        batch_images=8,
        fusion=None if fusion is None else str(fusion),
        database_url=database_url,
    )
    with open_store(store, encoder=str(encoder), settings=library) as sightline:
        service = Service(sightline, load_service_settings(source_roots=source_roots, **(limits or {})))
        with TestClient(create_app(service), raise_server_exceptions=False, client=("127.0.0.1", 50_000)) as client:
            yield AtWork(client, service)


def until(condition: Callable[[], Any], *, deadline_s: float = DEADLINE_S) -> Any:
    """What the condition gives once it is true; fails past the deadline."""
    end_s = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.01)
    return value


def write_texts(path: Path, *, num_texts: int) -> Path:
    """A file of texts, each its own."""
    path.write_text("".join(f"a red ball and {number} cubes on the beach\n" for number in range(num_texts)))
    return path


def write_pictures(folder: Path, *, num_pictures: int) -> Path:
    """Pictures of noise, each its own, and one that is broken."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(num_pictures):
        pixels = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 120), Image.Resampling.NEAREST).save(folder / f"{number:04}.jpg")
    (folder / "broken.jpg").write_bytes((folder / "0000.jpg").read_bytes()[:200])
    return folder
