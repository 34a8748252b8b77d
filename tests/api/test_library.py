"""The Python API: its example as it is printed, and what it refuses."""

import inspect
import re
from pathlib import Path

import pytest

import api
from api import Sightline, match_picture, open_store
from search.query import parse_query
from sightline.errors import EncoderMismatch, InvalidQuery, ItemNotFound, StoreNotFound
from sightline.settings import load_settings
from sightline.types import Modality
from tests.api.conftest import COLOURS
from tests.histogram_encoder import HistogramEncoder

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python-api.md").read_text(encoding="utf-8")


def test_the_examples_of_the_page_run_in_order(photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(photos.parent)
    namespace: dict[str, object] = {"encoder": HistogramEncoder()}
    examples = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        # The page opens a store with the bundled encoder; the test's own takes its place.
        code = example.replace('open_store("photos.sightline")', 'open_store("photos.sightline", encoder=encoder)')
        exec(compile(code, "python-api.md", "exec"), namespace)
    out = capsys.readouterr().out
    assert re.search(r"^1 0\.\d+ .*red\.png$", out, flags=re.MULTILINE)


def test_the_page_names_every_public_method() -> None:
    methods = {name for name, value in vars(Sightline).items() if not name.startswith("_") and inspect.isfunction(value)}
    named = set(re.findall(r"^\| `(\w+)\(", PAGE, flags=re.MULTILINE))
    assert named == methods


def test_the_package_gives_what_it_names_and_nothing_else() -> None:
    assert {name: getattr(api, name) for name in api.__all__} == {
        "Sightline": Sightline,
        "match_picture": match_picture,
        "open_store": open_store,
    }
    with pytest.raises(AttributeError, match="no attribute 'close_store'"):
        _ = api.close_store


def test_words_find_pictures(sightline: Sightline) -> None:
    hits = sightline.search("red", k=2)
    assert [hit.rank for hit in hits] == [1, 2]
    assert hits[0].key == "red.png"
    assert hits[0].text == "a red wall"


def test_a_path_is_a_picture_even_with_colons(sightline: Sightline, photos: Path) -> None:
    (photos / "blue.png").rename(photos / "blue::2")
    assert sightline.search(photos / "blue::2", k=1)[0].key == "blue.png"


def test_any_query_may_be_given(sightline: Sightline) -> None:
    query = parse_query("red", without=["blue"], modality=Modality.IMAGE)
    assert sightline.search(query, k=1)[0].key == "red.png"
    assert sightline.search(query, k=1, modality=Modality.IMAGE)[0].key == "red.png"
    with pytest.raises(InvalidQuery, match="choose one"):
        sightline.search(query, modality=Modality.TEXT)
    either = parse_query("red", without=["blue"])
    assert sightline.search(either, k=1, modality=Modality.IMAGE)[0].key == "red.png"
    assert sightline.search(either, modality=Modality.TEXT).hits == ()


def test_a_store_is_made_only_where_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound):
        open_store(tmp_path / "nowhere", create=False)
    with open_store(tmp_path / "somewhere") as sightline:
        assert sightline.collections() == []


@pytest.mark.parametrize(("device", "may_use_a_gpu"), [("auto", True), ("cuda", True), ("mps", False), ("cpu", False)])
def test_the_device_of_the_networks_is_that_of_the_search(tmp_path: Path, device: str, may_use_a_gpu: bool) -> None:
    with open_store(settings=load_settings(store=tmp_path, device=device)) as sightline:
        assert (sightline.store._options.device_memory is not None) is may_use_a_gpu


def test_what_one_session_wrote_the_next_one_finds(tmp_path: Path, sightline: Sightline) -> None:
    with open_store(tmp_path / "store", encoder=HistogramEncoder(), create=False) as again:
        assert {hit.key for hit in again.search("red")} == {f"{colour}.png" for colour in COLOURS}


def test_another_encoder_is_refused_for_indexing_and_searching(tmp_path: Path, sightline: Sightline, photos: Path) -> None:
    with open_store(tmp_path / "store", encoder=HistogramEncoder(version="2")) as other:
        with pytest.raises(EncoderMismatch):
            other.search("red")
        with pytest.raises(EncoderMismatch):
            other.index(photos)
        other.index(photos, collection="other")
        assert other.search("red", collection="other")[0].key == "red.png"


def test_an_encoder_is_loaded_by_name_and_once(tmp_path: Path, photos: Path, tiny_encoder_path: Path) -> None:
    with open_store(tmp_path / "tiny", encoder=str(tiny_encoder_path)) as first:
        first.index(photos)
    with open_store(tmp_path / "tiny") as second:
        for _ in range(2):
            assert second.search(photos / "red.png", k=1)[0].key == "red.png"
        assert second.collection("default").encoder_name == str(tiny_encoder_path)


def test_keeping_order(sightline: Sightline) -> None:
    assert sightline.delete(["red.png"]) == 1
    with pytest.raises(ItemNotFound):
        sightline.delete(["red.png"])
    assert sightline.statistics().num_items_by_modality == {Modality.IMAGE: 5}
    assert sightline.compact(force=True).live_rows == 5
    assert not sightline.verify()
    assert not sightline.ledger()
    assert len(sightline.runs(collection="default")) == 1
    sightline.rename_collection("default", "colours")
    described = sightline.alter_collection("colours", description="Six colours")
    assert (described.name, described.description) == ("colours", "Six colours")
    assert sightline.collection("colours") == described
    sightline.delete_collection("colours")
    assert sightline.collections() == []
