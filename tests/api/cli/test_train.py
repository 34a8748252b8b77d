"""`sightline train` from pictures on disk to an encoder that `index` takes."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from PIL import Image
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from api.cli import main
from api.exit_codes import ExitCode, exit_code_of
from api.training_sources import captioned_pictures, training_sources
from sightline.encoders.load import load_encoder
from sightline.errors import InvalidSource, InvalidTraining
from tests.tiny_checkpoint import WORDS, tiny_config, tiny_text_input

COLOURS = {"red": (220, 30, 30), "green": (20, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 20)}


@pytest.fixture(scope="module")
def text_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers folder with a BERT of two layers and a tokeniser of a few words."""
    folder = tmp_path_factory.mktemp("text") / "bert"
    values: dict[str, Any] = {name: value for name, value in tiny_config().text_config.items() if name != "model_type"}
    BertModel(BertConfig(**values)).save_pretrained(folder)
    tokenizer_file = folder / "tokenizer.json"
    tiny_text_input().save(tokenizer_file)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of one colour each, a caption beside each."""
    folder = tmp_path_factory.mktemp("captioned")
    for number in range(40):
        name, colour = list(COLOURS.items())[number % len(COLOURS)]
        shade = tuple(max(0, part - number) for part in colour)
        Image.new("RGB", (40 + number, 50), shade).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"a {name} {WORDS[8 + number % 4]}\n")
    return folder


def arguments(source: Path, out: Path, text_backbone: Path, *more: str) -> list[str]:
    """A run of two short epochs on a network of a few thousand weights."""
    backbones = ["--image-backbone", "test_resnet", "--from-scratch", "--text-backbone", str(text_backbone)]
    sizes = ["--embedding-dim", "16", "--max-text-tokens", "12", "--image-side", "32", "--views", "2", "--batch-size", "8"]
    return ["train", str(source), "--out", str(out), *backbones, *sizes, "--epochs", "2", "--projection-epochs", "2", *more]


def test_a_checkpoint_comes_out_that_index_and_search_take(
    captioned: Path, text_backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, store = tmp_path / "model", tmp_path / "store"
    assert main(arguments(captioned, out, text_backbone)) == ExitCode.OK
    assert "text-to-image" in capsys.readouterr().out
    card = json.loads((out / "card.json").read_text())
    assert 25 <= card["trained_on"][captioned.name] < 40  # about a fifth is held out
    assert load_encoder(str(out)).embedding_dim == 16
    assert main(["--store", str(store), "index", str(captioned), "--encoder", str(out)]) == ExitCode.OK
    assert main(["--store", str(store), "search", "a red ball", "--paths", "-k", "3"]) == ExitCode.OK
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_weights_that_cannot_be_had_are_one_sentence_at_once(
    captioned: Path, text_backbone: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    pretrained = [argument for argument in arguments(captioned, tmp_path / "model", text_backbone) if argument != "--from-scratch"]

    assert main(pretrained) == 50

    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("sightline: pretrained weights of timm's 'test_resnet' are not to be had: ")
    assert "http://127.0.0.1:9 cannot be reached" in line


def test_what_is_finished_is_not_trained_over(
    captioned: Path, text_backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(captioned, tmp_path / "model", text_backbone)) == ExitCode.OK
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    assert main(arguments(captioned, tmp_path / "model", text_backbone, "--seed", "3")) == 14

    assert "name another place with --out" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_the_same_command_again_gives_the_same_encoder(captioned: Path, text_backbone: Path, tmp_path: Path) -> None:
    assert main(arguments(captioned, tmp_path / "one", text_backbone)) == ExitCode.OK
    assert main(arguments(captioned, tmp_path / "two", text_backbone)) == ExitCode.OK
    assert load_encoder(str(tmp_path / "one")).fingerprint == load_encoder(str(tmp_path / "two")).fingerprint


@pytest.mark.parametrize(
    ("captions", "sentence"),
    [
        ([None, None, None], "has a caption"),
        (["a red ball", None, None], "at least two"),
        (["a red ball"] * 3, "is the same"),
    ],
)
def test_pictures_that_nothing_can_be_learnt_from_are_refused(
    captions: list[str | None], sentence: str, text_backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number, caption in enumerate(captions):
        Image.new("RGB", (40, 40), (number * 50, 0, 0)).save(source / f"{number}.png")
        if caption is not None:
            (source / f"{number}.txt").write_text(caption)
    validation = ["--validate", str(source)]
    code = main(arguments(source, tmp_path / "model", text_backbone, *validation))
    assert code == exit_code_of(InvalidTraining(""))
    assert sentence in capsys.readouterr().err


def test_a_backbone_without_classifier_has_none_to_keep(
    captioned: Path, text_backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(arguments(captioned, tmp_path / "model", text_backbone, "--keep-classifier"))
    assert code == exit_code_of(InvalidTraining(""))
    assert "brings no classifier" in capsys.readouterr().err


def test_a_source_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture here\n")
    with pytest.raises(InvalidSource, match="no picture"):
        captioned_pictures(str(tmp_path / "notes.txt"))


@pytest.mark.shared
def test_a_folder_of_shards_is_sorted_by_the_names_of_its_shards() -> None:
    from tests.needs import SHARED_DATA

    sources = training_sources([str(SHARED_DATA)], breadth=(), validation=())
    assert {name: len(pictures) for name, pictures in sources.pairs.items()} == {"coco": 805, "flickr8k": 6000}
    assert set(sources.breadth) == {"clothing", "grocery", "pacs"}
    assert {name: len(pictures) for name, pictures in sources.validation.items()} == {
        "caltech101": 2664,
        "flickr8k": 1000,
        "coco-held-out": 192,
    }
