"""A fusion encoder on disk says what it said before it was saved."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from sightline.encoders.fusion_checkpoint import FUSION_WEIGHTS, FusionCheckpoint, load_fusion_checkpoint, save_fusion_checkpoint
from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, Words
from sightline.encoders.matcher import Calibration, Combination

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


def test_banks_take_a_byte_a_number(tmp_path: Path) -> None:
    save_fusion_checkpoint(tmp_path, a_checkpoint(), notes={})
    state = load_file(tmp_path / FUSION_WEIGHTS)
    assert {name for name, tensor in state.items() if tensor.dtype is torch.int8} == {"banks.words", "banks.patches"}
    assert {tensor.dtype for name, tensor in state.items() if name not in ("banks.words", "banks.patches")} == {torch.float16, torch.int32}
