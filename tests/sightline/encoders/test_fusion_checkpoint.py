"""A fusion encoder on disk says what it said before it was saved."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sightline.encoders.fusion_checkpoint import (
    FUSION_WEIGHTS,
    SECOND_BACKBONE_WEIGHTS,
    FusionCheckpoint,
    load_fusion_checkpoint,
    save_fusion_checkpoint,
)
from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, Words
from sightline.encoders.image_backbone import ImageBackboneConfig, build_image_backbone
from sightline.encoders.matcher import Calibration, Combination
from sightline.encoders.second_backbone import SecondBackbone, feature_dim_of
from sightline.encoders.tokens import ImageTokens
from sightline.errors import EncoderMismatch, InvalidCheckpoint

CONFIG = FusionEncoderConfig(
    token_dim=10,
    text_width=12,
    grid_height=2,
    grid_width=3,
    width=64,
    num_layers=0,
    num_bank_words=6,
    num_bank_texts=2,
    num_bank_images=5,
    num_vocabulary=3,
)
VOCABULARY = [7, 2049, 30_521]  # odd numbers above 2,048 are none in fp16


def a_checkpoint() -> FusionCheckpoint:
    torch.manual_seed(0)
    model = FusionEncoder(CONFIG).eval()
    assert model.likelihood is not None
    model.likelihood.vocabulary.copy_(torch.tensor(VOCABULARY))
    model.likelihood.weight.fill_(2.0)
    for tensor in (model.banks.words, model.banks.patches):
        tensor.copy_(torch.nn.functional.normalize(torch.randn(tensor.shape), dim=-1))
    model.banks.words[4] = 0
    model.banks.word_weights.fill_(1 / 3)
    model.banks.text_by_word.copy_(torch.tensor([0, 0, 0, 1, 1, 1]))
    model.banks.strengths.fill_(1.0)
    return FusionCheckpoint(model, "e" * 64, Combination(0.1, 0.2), Calibration(0.5, -1.0, 0.25, -0.5))


def test_what_is_read_back_is_what_was_saved(tmp_path: Path) -> None:
    saved = a_checkpoint()
    fingerprint = save_fusion_checkpoint(tmp_path, saved, notes={"licence": "none"})
    found = load_fusion_checkpoint(tmp_path)

    assert (found.fingerprint, found.encoder_fingerprint) == (fingerprint, saved.encoder_fingerprint)
    assert (found.combination, found.calibration) == (saved.combination, saved.calibration)
    assert found.model.config == CONFIG
    assert found.model.likelihood is not None
    assert found.model.likelihood.vocabulary.tolist() == VOCABULARY
    for name in ("words", "patches"):
        bank, before = getattr(found.model.banks, name), getattr(saved.model.banks, name)
        # A step of 8 bits is a 127th of the row's largest number, and rounding is off by half of one at most.
        assert bool(((bank - before).abs() <= before.abs().amax(dim=-1, keepdim=True) / 127 * 0.51 + 1e-6).all())

    words = Words(torch.randn(2, 3, 12), torch.ones(2, 3, dtype=torch.bool), torch.tensor([[7, 2049, 5], [30_521, 7, 7]]))
    patches = torch.nn.functional.normalize(torch.randn(4, 6, 64), dim=-1)
    with torch.inference_mode():
        # A logit is some thirty times an alignment, which half precision moves by a thousandth.
        torch.testing.assert_close(found.model(words, patches), saved.model(words, patches), atol=0.1, rtol=0)


IN_EIGHT_BITS = {"banks.words", "banks.patches", "patch_projection.linear.weight"}
OF_THE_SECOND_SPACE = {"second.bank_texts", "second.components.weight", "second.image.hidden.weight", "second.text.hidden.weight"}


def test_banks_and_wide_layers_take_a_byte_a_number(tmp_path: Path) -> None:
    save_fusion_checkpoint(tmp_path / "one", a_checkpoint(), notes={})
    save_fusion_checkpoint(tmp_path / "two", with_second_backbone(a_checkpoint()), notes={})
    for folder, expected in ((tmp_path / "one", IN_EIGHT_BITS), (tmp_path / "two", IN_EIGHT_BITS | OF_THE_SECOND_SPACE)):
        state = load_file(folder / FUSION_WEIGHTS)
        assert {name for name, tensor in state.items() if tensor.dtype is torch.int8} == expected
        assert {tensor.dtype for name, tensor in state.items() if name not in expected} <= {torch.float16, torch.int32}


def with_second_backbone(checkpoint: FusionCheckpoint) -> FusionCheckpoint:
    """The same with a second space over features of a network with random weights."""
    config = ImageBackboneConfig("timm", "test_efficientnet", 64, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    second = SecondBackbone(config, build_image_backbone(config)).placed(torch.device("cpu"))
    torch.manual_seed(1)
    shape = {"feature_dim": feature_dim_of(second), "num_component_rows": 1, "num_embedding_rows": 1, "second_hidden_dim": 16}
    model = FusionEncoder(replace(CONFIG, num_vocabulary=0, **shape)).eval()
    assert model.second is not None
    model.second.weight.fill_(3.0)
    model.second.bank_texts.normal_()
    return replace(checkpoint, model=model, second_backbone=config, load_second_backbone=lambda: second)


def some_pictures(num_pictures: int = 2) -> ImageTokens:
    """Tokens of pictures on the common grid's coarsest, and their pixels."""
    generator = np.random.default_rng(3)
    hidden = generator.normal(size=(num_pictures, 6, 10)).astype(np.float32)
    pixels = generator.integers(0, 256, size=(num_pictures, 32, 32, 3), dtype=np.uint8)
    return ImageTokens(hidden, np.tile([2, 3], (num_pictures, 1)), pixels)


def test_a_second_backbone_is_loaded_with_the_first_picture_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.encoders.matcher.on_common_grid", lambda tokens: tokens.hidden_states)
    saved = with_second_backbone(a_checkpoint())
    fingerprint = save_fusion_checkpoint(tmp_path, saved, notes={})
    found = load_fusion_checkpoint(tmp_path)
    assert found.fingerprint == fingerprint
    assert found.second_backbone == saved.second_backbone
    num_loaded = []

    def loading() -> SecondBackbone:
        num_loaded.append(1)
        assert found.load_second_backbone is not None
        return found.load_second_backbone()

    matcher = replace(found, load_second_backbone=loading).matcher(torch.device("cpu"))
    assert matcher.num_whole_rows == 2
    assert not num_loaded
    rows = matcher.project(some_pictures())
    assert rows.shape == (2, 8, 64)
    matcher.project(some_pictures())
    assert len(num_loaded) == 1
    expected = saved.matcher(torch.device("cpu")).project(some_pictures())
    cosines = (rows * expected).sum(axis=-1) / np.linalg.norm(rows, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert (cosines > 0.98).all()  # eight bits a weight, twice

    with pytest.raises(EncoderMismatch, match="second backbone"):
        matcher.project(replace(some_pictures(), pixels=None))


def test_other_weights_of_the_second_backbone_are_noticed(tmp_path: Path) -> None:
    save_fusion_checkpoint(tmp_path, with_second_backbone(a_checkpoint()), notes={})
    path = tmp_path / SECOND_BACKBONE_WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(InvalidCheckpoint, match="copy the fusion encoder again"):
        load_fusion_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(InvalidCheckpoint, match=rf"{SECOND_BACKBONE_WEIGHTS} is missing; copy the fusion encoder again"):
        load_fusion_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".", r"holds no fusion encoder: its card, fusion\.json, is missing$"),
        ("file", r"holds no fusion encoder: its card, fusion\.json, is missing$"),
        ("nowhere", "there is no such folder"),
        ("file/below", "there is no such folder"),
    ],
)
def test_a_place_without_a_fusion_encoder_is_said_to_hold_none(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InvalidCheckpoint, match=said):
        load_fusion_checkpoint(tmp_path / name)


def test_a_fusion_encoder_without_one_removes_the_former_ones(tmp_path: Path) -> None:
    save_fusion_checkpoint(tmp_path, with_second_backbone(a_checkpoint()), notes={})
    save_fusion_checkpoint(tmp_path, a_checkpoint(), notes={})
    assert not (tmp_path / SECOND_BACKBONE_WEIGHTS).exists()
    assert load_fusion_checkpoint(tmp_path).load_second_backbone is None
