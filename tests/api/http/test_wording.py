"""No sentence over HTTP names a command or an option of the command line: all that the engine can say are read, and some are asked for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import api
from api import Sightline, open_store
from api.http.app import create_app
from api.http.service import Service
from api.http.settings import load_service_settings
from api.http.wording import over_http
from tests.api.http.jobs_at_work import at_work, write_texts
from tests.histogram_encoder import HistogramEncoder

ROOT = Path(api.__file__).parents[1]
COMMAND = re.compile(r"`sightline\b|(?:^|[ (`])--[a-z]")
NOT_OVER_HTTP = (
    "api/cli/",
    "api/evaluation.py",
    "api/training_sources.py",
    "api/http/access.py",  # what `sightline serve` says at a terminal
    "api/http/serving.py",
    "api/http/wording.py",
    "search/judgements.py",  # of evaluations
    "sightline/training/",
)
OF_BOTH = {"api/http/authorisation.py": "POST /v1/keys"}
"""What names a command beside the address that does the same."""


def sentences() -> Iterator[tuple[str, str]]:
    """Every text in the code that is no docstring and names a command, with its file; values in it are called X."""
    for folder in ("api", "indexer", "search", "sightline"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(NOT_OVER_HTTP):
                yield from ((name, text) for text in texts_of(ast.parse(path.read_text(encoding="utf-8"))) if COMMAND.search(text))


def texts_of(tree: ast.Module) -> Iterator[str]:
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | parts:
            yield node.value


def test_every_sentence_of_the_engine_has_words_for_http() -> None:
    found = list(sentences())
    assert len(found) > 20, "the search for sentences has gone blind"
    told = {(name, over_http(text)) for name, text in found}
    assert sorted((name, text) for name, text in told if COMMAND.search(text) and OF_BOTH.get(name, "\0") not in text) == []


@pytest.mark.parametrize("sentence", ["", "there is no item 7", "the picture '--help' is cut short", "`sightline` is no command of mine"])
def test_what_names_no_command_stays_as_it_is(sentence: str) -> None:
    assert over_http(sentence) == sentence


def test_an_encoder_with_other_weights_is_told_in_words_of_http(sightline: Sightline) -> None:
    with (
        open_store(sightline.store.folder, encoder=HistogramEncoder(version="2")) as upgraded,
        TestClient(create_app(Service(upgraded, load_service_settings())), client=("127.0.0.1", 50_000)) as client,
    ):
        refused = client.post("/v1/collections/default/search", json={"text": "red"})
    assert (refused.status_code, refused.json()["type"]) == (409, "EncoderMismatch")
    assert "delete the collection (DELETE /v1/collections/NAME) and index its sources again" in refused.json()["detail"]
    assert not COMMAND.search(refused.json()["detail"])


def test_a_query_for_nothing_is_told_in_words_of_http(client: TestClient) -> None:
    detail = client.post("/v1/collections/default/search", json={"without": ["red"]}).json()["detail"]
    assert detail.endswith("give words, a picture (image) or an item (like)")


def test_what_a_search_notes_of_missing_patches_names_the_job_that_adds_them(fused: Sightline, pictures: Path) -> None:
    fused.index(pictures, collection="bare", patches=False)
    with TestClient(create_app(Service(fused, load_service_settings())), client=("127.0.0.1", 50_000)) as client:
        (note,) = client.post("/v1/collections/bare/search", json={"text": "a red ball"}).json()["notes"]
        explained = client.post("/v1/collections/bare/explain", json={"text": "a red ball", "item_id": 13})
    assert "a job of kind patches (POST /v1/jobs) adds them" in note
    assert (explained.status_code, explained.json()["type"]) == (404, "PatchesNotFound")
    assert "a job of kind patches (POST /v1/jobs) adds those that are missing" in explained.json()["detail"]


def test_a_job_finds_damage_says_which_job_mends_it_and_that_one_does(tmp_path: Path, tiny_encoder_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    texts = write_texts(tmp_path / "sources" / "notes.txt", num_texts=20)
    with at_work(tmp_path / "store", encoder=tiny_encoder_path, source_roots=(tmp_path / "sources",)) as work:
        index = {"kind": "index", "collection": "default", "source": str(texts)}
        assert work.ended(work.queue(**index))["state"] == "done"
        (embeddings,) = (tmp_path / "store" / "segments").glob("*/*/embeddings.fp16")
        embeddings.write_bytes(embeddings.read_bytes()[:-2])

        found = work.ended(work.queue(kind="verify"))["result"]
        assert found["num_findings"] == 1
        assert found["findings"][0]["what_to_do"].startswith('a job of kind verify (POST /v1/jobs) with "repair": true gives')
        search = work.client.post("/v1/collections/default/search", json={"text": "a red ball"})
        assert (search.status_code, search.json()["type"]) == (503, "CorruptSegment")
        assert "a job of kind verify (POST /v1/jobs) lists all damage" in search.json()["detail"]

        repaired = work.ended(work.queue(kind="verify", repair=True))
        assert (repaired["state"], repaired["error"]) == ("done", None)
        assert repaired["result"]["repaired"] == {"num_items": 20, "sources_by_collection": {"default": [str(texts)]}}
        assert work.ended(work.queue(**index))["state"] == "done"
        assert work.ended(work.queue(kind="verify"))["result"] == {"num_findings": 0, "findings": []}
        assert len(work.client.post("/v1/collections/default/search", json={"text": "a red ball"}).json()["hits"]) == 10
        refused = work.client.post("/v1/jobs", json={"kind": "verify", "collection": "default", "repair": True})
        assert refused.status_code == 422
