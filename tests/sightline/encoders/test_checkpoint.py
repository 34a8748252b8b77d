"""Checkpoints on disk: what comes back, what is refused, and what a kill leaves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.encoders import checkpoint as checkpoint_module
from sightline.encoders.checkpoint import (
    BANK_NAMES,
    CARD_NAME,
    FORMAT_VERSION,
    TOKENIZER_NAME,
    load_checkpoint,
    open_checkpoint,
    read_card,
    replacing,
    save_checkpoint,
    save_query_banks,
)
from sightline.encoders.composed import load_composed_encoder
from sightline.encoders.dual_encoder import DualEncoder
from sightline.encoders.query_bank import QueryBank, compressed_bank
from sightline.errors import InvalidCheckpoint
from sightline.types import Modality
from tests.tiny_checkpoint import tiny_model, tiny_text_input

PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))


def _image_embeddings(model: DualEncoder) -> torch.Tensor:
    with torch.inference_mode():
        return model.embed_pixels(PIXELS)


def _text_embeddings(model: DualEncoder) -> torch.Tensor:
    tokens = tiny_text_input().pad(tiny_text_input().token_ids(["a red ball", "the black dog on the beach", "two"]))
    with torch.inference_mode():
        return model.embed_tokens(torch.from_numpy(tokens.token_ids), torch.from_numpy(tokens.attention_mask))


def _save(folder: Path, *, seed: int = 0, notes: dict[str, object] | None = None) -> str:
    return save_checkpoint(folder, model=tiny_model(seed=seed), text_input=tiny_text_input(), notes=notes or {})


@pytest.mark.parametrize(("has_kept_branch", "num_frozen_stages"), [(True, 2), (False, 0), (True, 0), (False, 5)])
def test_what_was_saved_embeds_as_before(tmp_path: Path, has_kept_branch: bool, num_frozen_stages: int) -> None:
    model = tiny_model(has_kept_branch=has_kept_branch, num_frozen_stages=num_frozen_stages)

    fingerprint = save_checkpoint(tmp_path, model=model, text_input=tiny_text_input(), notes={"credits": ["nobody"]})
    loaded = load_checkpoint(tmp_path)

    assert loaded.fingerprint == fingerprint == loaded.card["fingerprint"]
    assert loaded.card["credits"] == ["nobody"]
    assert loaded.model.config == model.config
    assert not loaded.model.training
    assert loaded.text_input.token_ids(["a red ball"]) == tiny_text_input().token_ids(["a red ball"])
    # fp16 keeps 11 bits of a weight; 8 bits of a word embedding are undone by the layer norm that follows, up to 1 in 250.
    torch.testing.assert_close(_image_embeddings(loaded.model), _image_embeddings(model), atol=2e-3, rtol=0)
    torch.testing.assert_close(_text_embeddings(loaded.model), _text_embeddings(model), atol=2e-2, rtol=0)


def test_saving_what_was_loaded_changes_nothing(tmp_path: Path) -> None:
    first = _save(tmp_path / "first")
    loaded = load_checkpoint(tmp_path / "first")

    second = save_checkpoint(tmp_path / "second", model=loaded.model, text_input=loaded.text_input, notes={})

    again = load_checkpoint(tmp_path / "second").model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        # The scale of a word is found again from its largest entry, which is 127 steps of it up to float32's rounding.
        torch.testing.assert_close(again[name], tensor, atol=0, rtol=1e-6 if "word_embeddings" in name else 0)
    assert first == read_card(tmp_path / "first")["fingerprint"]
    assert second == read_card(tmp_path / "second")["fingerprint"]


def test_files_stay_below_the_limit_and_hold_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path / "one")
    monkeypatch.setattr(checkpoint_module, "MAX_FILE_BYTES", 200_000)

    _save(tmp_path / "many")

    sizes = [path.stat().st_size for path in (tmp_path / "many").glob("weights-*")]
    assert len(sizes) > 5
    largest = max(t.numel() * 2 for t in tiny_model().state_dict().values())
    assert max(sizes) < max(200_000, largest) + 20_000  # the header comes on top
    assert len(list((tmp_path / "one").glob("weights-*"))) == 1
    torch.testing.assert_close(
        _image_embeddings(load_checkpoint(tmp_path / "many").model), _image_embeddings(load_checkpoint(tmp_path / "one").model)
    )


def test_a_smaller_checkpoint_over_a_larger_one_leaves_no_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "MAX_FILE_BYTES", 200_000)
        _save(tmp_path)
    (tmp_path / "weights-00009-of-00009.safetensors.partial").write_bytes(b"what a kill left")

    _save(tmp_path, seed=1)

    assert sorted(path.name for path in tmp_path.iterdir()) == [CARD_NAME, TOKENIZER_NAME, "weights-00001-of-00001.safetensors"]
    load_checkpoint(tmp_path)


def test_the_fingerprint_ignores_the_notes_and_changes_with_weights_tokeniser_and_configuration(tmp_path: Path) -> None:
    fingerprint = _save(tmp_path / "a", notes={"licence": "x"})
    model = tiny_model()
    with torch.no_grad():
        model.text_projection.out.bias[0] += 0.5

    assert _save(tmp_path / "b", notes={"licence": "another"}) == fingerprint
    assert save_checkpoint(tmp_path / "c", model=model, text_input=tiny_text_input(), notes={}) != fingerprint
    assert save_checkpoint(tmp_path / "d", model=tiny_model(), text_input=tiny_text_input(max_tokens=9), notes={}) != fingerprint
    model = tiny_model(has_kept_branch=False)
    assert save_checkpoint(tmp_path / "e", model=model, text_input=tiny_text_input(), notes={}) != fingerprint


def test_a_corrected_note_keeps_the_checkpoint_valid(tmp_path: Path) -> None:
    fingerprint = _save(tmp_path, notes={"licence": "x"})
    card = read_card(tmp_path)

    (tmp_path / CARD_NAME).write_text(json.dumps(card | {"licence": "corrected"}))

    assert load_checkpoint(tmp_path).fingerprint == fingerprint


def _edit_card(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / CARD_NAME).write_text(json.dumps(read_card(folder) | changes))

    return damage


def _without(field: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / CARD_NAME).write_text(json.dumps({name: value for name, value in read_card(folder).items() if name != field}))

    return damage


def _written(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


def _cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])

    return damage


def _flip(name: str, *, at: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 1
        (folder / name).write_bytes(content)

    return damage


def _removed(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


WEIGHTS = "weights-00001-of-00001.safetensors"
DAMAGE: dict[str, Callable[[Path], None]] = {
    "no card": _removed(CARD_NAME),
    "no weights": _removed(WEIGHTS),
    "no tokeniser": _removed(TOKENIZER_NAME),
    "an empty card": _written(CARD_NAME, b""),
    "a cut card": _cut(CARD_NAME),
    "a card of bytes": _written(CARD_NAME, b"\xff\xfe\x00garbage"),
    "a card that is a list": _written(CARD_NAME, b"[1, 2]"),
    "a card of another version": _edit_card(format_version=FORMAT_VERSION + 1),
    "a card without a version": _without("format_version"),
    "a card without a fingerprint": _without("fingerprint"),
    "a card without a configuration": _without("config"),
    "a card without weights": _without("weights"),
    "weights that are a number": _edit_card(weights=7),
    "a configuration that is a word": _edit_card(config="large"),
    "another configuration": _edit_card(config={"embedding_dim": 7}),
    "another fingerprint": _edit_card(fingerprint="0" * 64),
    "a byte of the weights' header": _flip(WEIGHTS, at=20),
    "a byte of the weights": _flip(WEIGHTS, at=-100),
    "weights cut short": _cut(WEIGHTS),
    "empty weights": _written(WEIGHTS, b""),
    "a byte of the tokeniser": _flip(TOKENIZER_NAME, at=200),
    "a tokeniser cut short": _cut(TOKENIZER_NAME),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(tiny_encoder_path: Path, tmp_path: Path, case: str) -> None:
    folder = shutil.copytree(tiny_encoder_path, tmp_path / "copy")
    DAMAGE[case](folder)

    with pytest.raises(InvalidCheckpoint, match=str(folder)):
        load_checkpoint(folder)


def _resealed(folder: Path, **changes: object) -> None:
    """A card that is consistent with itself: what a newer Sightline, or one with other libraries, might have written."""
    card = read_card(folder) | changes
    card["fingerprint"] = checkpoint_module._fingerprint(folder, config=card["config"], weight_names=card["weights"])
    (folder / CARD_NAME).write_text(json.dumps(card))


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_dim": 7},
        {"image": "timm"},
        {"image": {"library": "timm", "name": "no_such_network", "image_side": 64, "pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1]}},
        {"text_config": {"model_type": "no-such-model"}},
        {"text_config": {}},
        {"text_config": None},
        {"unknown_field": 1},
    ],
    ids=str,
)
def test_a_whole_checkpoint_that_this_version_cannot_build_is_refused(
    tiny_encoder_path: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = shutil.copytree(tiny_encoder_path, tmp_path / "copy")
    _resealed(folder, config=read_card(folder)["config"] | changes)

    with pytest.raises(InvalidCheckpoint, match=str(folder)):
        load_checkpoint(folder)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    for folder in (tmp_path / "missing", tmp_path, tmp_path / "file"):
        with pytest.raises(InvalidCheckpoint, match=r"no card\.json can be read"):
            load_checkpoint(folder)


class _Killed(BaseException):
    """Stands for the process's end between two renames."""


def _save_killed_after(folder: Path, monkeypatch: pytest.MonkeyPatch, *, num_renames: int) -> bool:
    """Whether the save came to its end before it was to be killed."""
    replace, places = Path.replace, iter(range(num_renames))

    def replace_until_killed(path: Path, target: Path) -> Path:
        if next(places, None) is None:
            raise _Killed
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_until_killed)
        try:
            _save(folder, seed=1)
        except _Killed:
            return False
    return True


@pytest.mark.parametrize(("max_file_bytes", "expected"), [(10_000_000, {"former", "refused"}), (500_000, {"former"})])
def test_a_save_that_is_cut_off_leaves_the_former_checkpoint_or_one_that_is_refused(
    tiny_encoder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_file_bytes: int, expected: set[str]
) -> None:
    """Cut off before every rename in turn: never a network half the one and half the other."""
    monkeypatch.setattr(checkpoint_module, "MAX_FILE_BYTES", max_file_bytes)
    former = read_card(tiny_encoder_path)["fingerprint"]
    outcomes = set()
    folder = shutil.copytree(tiny_encoder_path, tmp_path / "cut-0")
    num_renames = 0
    while not _save_killed_after(folder, monkeypatch, num_renames=num_renames):
        try:
            found = load_checkpoint(folder).fingerprint
        except InvalidCheckpoint:
            outcomes.add("refused")
        else:
            outcomes.add("former" if found == former else "another")
        num_renames += 1
        folder = shutil.copytree(tiny_encoder_path, tmp_path / f"cut-{num_renames}")
    assert outcomes == expected
    assert load_checkpoint(folder).fingerprint != former
    # The worst of them is mended by saving again.
    assert _save(tmp_path / f"cut-{num_renames - 1}", seed=1) == load_checkpoint(folder).fingerprint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_fp16_does_not_hold_are_not_saved_over_those_that_are_there(tmp_path: Path, value: float) -> None:
    fingerprint = _save(tmp_path)
    model = tiny_model(seed=1)
    with torch.no_grad():
        model.text_projection.out.weight[0, 0] = value

    with pytest.raises(InvalidCheckpoint, match=r"text_projection\.out\.weight"):
        save_checkpoint(tmp_path, model=model, text_input=tiny_text_input(), notes={})
    assert load_checkpoint(tmp_path).fingerprint == fingerprint


def test_word_embeddings_that_are_no_numbers_are_refused_too(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.text.get_input_embeddings().weight[3, 2] = torch.nan  # type: ignore[operator]

    with pytest.raises(InvalidCheckpoint, match="word_embeddings"):
        save_checkpoint(tmp_path, model=model, text_input=tiny_text_input(), notes={})


def test_a_word_of_zeros_stays_one(tmp_path: Path) -> None:
    model = tiny_model()
    with torch.no_grad():
        model.text.get_input_embeddings().weight[3] = 0  # type: ignore[operator]

    save_checkpoint(tmp_path, model=model, text_input=tiny_text_input(), notes={})

    assert not load_checkpoint(tmp_path).model.text.get_input_embeddings().weight[3].any()  # type: ignore[operator]


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("before")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "before"
    with replacing(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_whoever_may_read_the_folder_may_read_all_of_a_checkpoint(tmp_path: Path) -> None:
    """Safetensors writes for the owner alone."""
    new_file = tmp_path / "new"
    new_file.touch()
    folder = tmp_path / "out"

    save_checkpoint(folder, model=tiny_model(), text_input=tiny_text_input(), notes={})

    assert {path.stat().st_mode for path in folder.iterdir()} == {new_file.stat().st_mode}


def test_what_a_killed_run_left_does_not_decide_the_mode(tmp_path: Path) -> None:
    (tmp_path / "file.json.partial").touch(mode=0o400)
    (tmp_path / "new").touch()

    with replacing(tmp_path / "file.json") as temporary:
        temporary.write_text("whole")

    assert (tmp_path / "file.json").stat().st_mode == (tmp_path / "new").stat().st_mode


def _bank(*, seed: int = 0, dim: int = 24) -> QueryBank:
    rows = np.random.default_rng(seed).standard_normal((5, dim), dtype=np.float32)
    return compressed_bank(rows / np.linalg.norm(rows, axis=1, keepdims=True), num_centroids=5, factor=20.0, strength=0.5)


def test_a_checkpoint_carries_banks_beside_its_weights_and_stays_the_same_encoder(tmp_path: Path) -> None:
    fingerprint = _save(tmp_path, notes={"licence": "x"})
    assert load_composed_encoder(tmp_path, name="tiny", device="cpu").query_banks == {}

    banks = {Modality.IMAGE: _bank(), Modality.TEXT: _bank(seed=1)}
    save_query_banks(tmp_path, banks)

    encoder = load_composed_encoder(tmp_path, name="tiny", device="cpu")
    assert encoder.fingerprint == fingerprint
    assert read_card(tmp_path)["licence"] == "x"
    assert {modality: bank.fingerprint for modality, bank in encoder.query_banks.items()} == {
        modality: bank.fingerprint for modality, bank in banks.items()
    }
    assert {path.name for path in tmp_path.glob("query_bank_*")} == {"query_bank_texts.safetensors", "query_bank_images.safetensors"}


def test_other_banks_take_the_place_of_all_that_were_there(tmp_path: Path) -> None:
    _save(tmp_path)
    save_query_banks(tmp_path, {Modality.IMAGE: _bank(), Modality.TEXT: _bank(seed=1)})
    save_query_banks(tmp_path, {Modality.IMAGE: _bank(seed=2).with_strength(0.0)})
    (bank,) = open_checkpoint(tmp_path).load_query_banks().values()
    assert (bank.fingerprint, bank.strength) == (_bank(seed=2).fingerprint, 0.0)
    assert [path.name for path in tmp_path.glob("query_bank_*")] == [BANK_NAMES[Modality.IMAGE]]


def test_new_weights_leave_no_bank_of_the_former_ones(tmp_path: Path) -> None:
    _save(tmp_path)
    save_query_banks(tmp_path, {Modality.IMAGE: _bank()})
    _save(tmp_path, seed=1)
    assert open_checkpoint(tmp_path).load_query_banks() == {}
    assert list(tmp_path.glob("query_bank_*")) == []


@pytest.mark.parametrize(
    "harm",
    [
        _removed(BANK_NAMES[Modality.IMAGE]),
        _cut(BANK_NAMES[Modality.IMAGE]),
        _flip(BANK_NAMES[Modality.IMAGE], at=-1),
        _written(BANK_NAMES[Modality.IMAGE], _bank(seed=1).to_bytes()),
        _edit_card(query_banks={"image": "another"}),
        _edit_card(query_banks={"sound": "another"}),
        _edit_card(query_banks=7),
    ],
)
def test_a_bank_that_is_not_the_cards_is_refused_when_it_is_asked_for(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    _save(tmp_path)
    save_query_banks(tmp_path, {Modality.IMAGE: _bank()})
    harm(tmp_path)
    encoder = load_composed_encoder(tmp_path, name="tiny", device="cpu")  # a search needs no bank
    with pytest.raises(InvalidCheckpoint, match=str(tmp_path)):
        _ = encoder.query_banks


def test_a_bank_of_another_width_is_not_saved(tmp_path: Path) -> None:
    _save(tmp_path)
    with pytest.raises(InvalidCheckpoint, match="for images is 7 wide, embeddings 24"):
        save_query_banks(tmp_path, {Modality.IMAGE: _bank(dim=7)})
    with pytest.raises(InvalidCheckpoint, match=r"no card\.json"):
        save_query_banks(tmp_path / "nowhere", {})
