"""From a name to an encoder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.encoders.checkpoint import CARD_NAME
from sightline.encoders.load import CARD_NAME as CARD_NAME_OF_LOAD
from sightline.encoders.load import bundled_folder, load_encoder
from sightline.errors import EncoderUnavailable, InvalidCheckpoint, InvalidSetting
from sightline.settings import DEFAULT_ENCODER
from sightline.types import Modality


def test_a_folder_of_ours_is_named_by_where_it_lies(tiny_encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_encoder_path, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)

    encoder = load_encoder("mine", device="cpu")

    assert encoder.name == str((tmp_path / "mine").resolve())
    assert load_encoder(encoder.name, device="cpu").fingerprint == encoder.fingerprint
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_encoder("~/mine", device="cpu").name == encoder.name


def test_a_damaged_folder_and_an_unknown_device(tiny_encoder_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder_path, tmp_path / "copy")
    next(folder.glob("weights-*")).write_bytes(b"")

    with pytest.raises(InvalidCheckpoint, match="copy"):
        load_encoder(str(folder), device="cpu")
    with pytest.raises(InvalidSetting, match="tpu"):
        load_encoder(str(tiny_encoder_path), device="tpu")


@pytest.mark.parametrize("spec", ["./no/such/folder", "/no/such/folder"])
def test_a_missing_folder_says_what_was_asked_for(spec: str) -> None:
    with pytest.raises(EncoderUnavailable, match="no/such/folder"):
        load_encoder(spec, device="cpu")


def test_an_empty_folder_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match=tmp_path.name):
        load_encoder(str(tmp_path), device="cpu")


def test_the_bundled_encoder_has_its_name_or_says_that_its_weights_are_missing(
    tiny_encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    monkeypatch.setattr("sightline.encoders.load.bundled_folder", lambda: folder)

    with pytest.raises(EncoderUnavailable, match=f"{DEFAULT_ENCODER}: its weights are missing .* install Sightline again"):
        load_encoder(DEFAULT_ENCODER, device="cpu")
    shutil.copytree(tiny_encoder_path, folder)
    assert load_encoder(DEFAULT_ENCODER, device="cpu").name == DEFAULT_ENCODER


@pytest.mark.parametrize("spec", ["sightline-mni", "Sightline-Mini", "sightline_mini", "sightline"])
def test_a_near_name_of_the_bundled_encoder_is_corrected_before_a_hub_is_thought_of(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderUnavailable, match=rf"^there is no encoder '{spec}'; did you mean 'sightline-mini'\?"):
        load_encoder(spec, device="cpu")


@pytest.mark.parametrize("spec", ["./sightline-mni", "nowhere/else/sightline-mni", "siglip"])
def test_a_path_or_another_name_is_no_slip_of_the_pen(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderUnavailable) as refusal:
        load_encoder(spec, device="cpu")
    assert "did you mean" not in str(refusal.value)


def test_a_folder_with_a_near_name_is_taken_for_what_it_is(
    tiny_encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_encoder_path, tmp_path / "sightline-mini2")
    monkeypatch.chdir(tmp_path)
    assert load_encoder("sightline-mini2", device="cpu").name == str((tmp_path / "sightline-mini2").resolve())


def test_the_bundled_folder_lies_in_the_package() -> None:
    import sightline.encoders

    assert bundled_folder() == Path(sightline.encoders.__path__[0]) / "weights" / DEFAULT_ENCODER


def test_importing_it_is_quick_and_brings_no_network_library() -> None:
    assert CARD_NAME_OF_LOAD == CARD_NAME
    program = "import sys, sightline.encoders.load; print([n for n in ('torch', 'timm', 'transformers', 'faiss') if n in sys.modules])"

    root = Path(__file__).resolve().parents[3]
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)

    assert found.stdout.strip() == "[]"


def test_the_bundled_checkpoint_is_small_enough_to_ship() -> None:
    sizes = {path.name: path.stat().st_size for path in bundled_folder().iterdir()}
    of_fusion = sum(size for name, size in sizes.items() if name.startswith("fusion"))
    assert sum(sizes.values()) - of_fusion <= 56_000_000
    assert sum(sizes.values()) <= 64_000_000
    assert max(sizes.values()) <= 16_000_000


def test_the_bundled_encoder_brings_a_bank_for_either_modality() -> None:
    assert set(load_encoder("sightline-mini", device="cpu").query_banks) == set(Modality)
