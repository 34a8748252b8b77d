"""The fingerprint of a hub model follows every byte of its files, and large files are read once."""

import os
import shutil
from pathlib import Path

import pytest

from sightline.encoders.hub_files import HubAccess, ModelFiles, find_model
from sightline.encoders.hub_fingerprint import REMEMBERED_SIZE_BYTES, default_digest_cache, model_fingerprint
from tests.sightline.encoders.tiny_hub_models import save_clip

LONG_AGO_NS = 1_000_000_000_000_000_000  # 2001


def files_in(folder: Path) -> ModelFiles:
    """What a folder holds, as `find_model` gives it."""
    return find_model(str(folder), hub=HubAccess(endpoint="", cache_folder=folder, is_offline=True))


def flip_a_byte(path: Path, position: int) -> None:
    """Changes one byte in place."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def large_model(tmp_path: Path) -> ModelFiles:
    """Files of which one is large enough to be remembered and old enough to have settled."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(REMEMBERED_SIZE_BYTES + 1))
    os.utime(weights, ns=(LONG_AGO_NS, LONG_AGO_NS))
    return ModelFiles(name="large", folder=folder, file_names=("config.json", "model.safetensors"))


def test_each_file_counts_and_its_place_does_not(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "model")
    fingerprint = model_fingerprint(files_in(folder), cache_folder=tmp_path / "cache")
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    (moved / "README.md").write_text("not part of the model", encoding="utf-8")
    assert model_fingerprint(files_in(moved), cache_folder=tmp_path / "cache") == fingerprint
    for name in files_in(folder).file_names:
        changed = shutil.copytree(folder, tmp_path / f"changed {name}")
        flip_a_byte(changed / name, (changed / name).stat().st_size - 1)
        assert model_fingerprint(files_in(changed), cache_folder=tmp_path / "cache") != fingerprint, name


def test_a_large_file_is_digested_once(large_model: ModelFiles, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fingerprint = model_fingerprint(large_model, cache_folder=cache)
    (remembered,) = cache.iterdir()
    assert model_fingerprint(large_model, cache_folder=cache) == fingerprint
    remembered.write_text("0" * 64, encoding="ascii")
    assert model_fingerprint(large_model, cache_folder=cache) != fingerprint  # so it was the remembered digest that counted


def test_a_changed_weight_is_seen_though_size_and_time_are_as_before(large_model: ModelFiles, tmp_path: Path) -> None:
    before = model_fingerprint(large_model, cache_folder=tmp_path / "cache")
    weights = large_model.folder / "model.safetensors"
    flip_a_byte(weights, REMEMBERED_SIZE_BYTES // 2)
    os.utime(weights, ns=(LONG_AGO_NS, LONG_AGO_NS))
    assert model_fingerprint(large_model, cache_folder=tmp_path / "cache") != before


def test_a_file_that_was_just_written_is_not_remembered(large_model: ModelFiles, tmp_path: Path) -> None:
    os.utime(large_model.folder / "model.safetensors")
    model_fingerprint(large_model, cache_folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [b"", b"short", b"\xff" * 64])
def test_a_damaged_cache_costs_only_time(damage: bytes, large_model: ModelFiles, tmp_path: Path) -> None:
    fingerprint = model_fingerprint(large_model, cache_folder=tmp_path / "cache")
    (remembered,) = (tmp_path / "cache").iterdir()
    remembered.write_bytes(damage)
    assert model_fingerprint(large_model, cache_folder=tmp_path / "cache") == fingerprint


def test_a_cache_that_cannot_be_written_costs_only_time(large_model: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    assert model_fingerprint(large_model, cache_folder=tmp_path / "cache") == model_fingerprint(
        large_model, cache_folder=tmp_path / "other cache"
    )


def test_digests_are_remembered_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_digest_cache() == tmp_path / "sightline" / "digests"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_digest_cache() == Path.home() / ".cache" / "sightline" / "digests"
