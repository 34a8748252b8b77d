"""The alignment head: what it reads is what a fusion encoder that begins with it reads, and it survives the disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.encoders.fusion_checkpoint import FusionCheckpoint, save_fusion_checkpoint
from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig
from sightline.encoders.matcher import Calibration, Combination
from sightline.errors import InvalidCheckpoint
from sightline.training.alignment_head import ALIGNMENT_NAME, AlignmentHead, load_alignment
from sightline.training.token_cache import principal_components

TOKEN_DIM, TEXT_WIDTH = 20, 12


def a_head() -> AlignmentHead:
    torch.manual_seed(0)
    head = AlignmentHead(token_dim=TOKEN_DIM, text_width=TEXT_WIDTH)
    head.standardise(torch.randn(500, TOKEN_DIM) * 3 + 1)
    return head.eval()


def some_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (3 pictures, 7, 7, dim), hidden states (2 texts, 4 words, width) and a mask in which the second text is shorter."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return torch.randn(3, 7, 7, TOKEN_DIM, generator=generator), torch.randn(2, 4, TEXT_WIDTH, generator=generator), mask


@torch.no_grad()
def test_a_fusion_encoder_that_begins_with_it_aligns_as_it_does() -> None:
    head = a_head()
    tokens, hidden, mask = some_inputs()
    rows = (np.random.default_rng(2).normal(size=(400, TOKEN_DIM)) * np.arange(1, TOKEN_DIM + 1)).astype(np.float32)
    basis = principal_components(rows, num_components=TOKEN_DIM)  # all of them: nothing is lost
    fusion = FusionEncoder(FusionEncoderConfig(token_dim=TOKEN_DIM, text_width=TEXT_WIDTH, grid_height=7, grid_width=7)).eval()

    head.begin(fusion, basis)

    reduced = torch.from_numpy(((tokens.flatten(1, 2).numpy() - basis.mean) / basis.std) @ basis.components)
    theirs = fusion.alignment(fusion.text_norm(hidden), mask.bool(), fusion.project(reduced))
    torch.testing.assert_close(theirs, head(hidden, mask, head.patches(tokens)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fusion.alignment_scale, head.alignment_scale)


@torch.no_grad()
def test_padding_is_not_read_and_dropping_words_spares_the_first() -> None:
    head = a_head()
    tokens, hidden, mask = some_inputs()
    patches = head.patches(tokens)
    whole = head(hidden, mask, patches)
    hidden[1, 2:] = 1e3
    torch.testing.assert_close(head(hidden, mask, patches), whole)
    one_word = mask.clone()
    one_word[:, 1:] = 0
    head.train()
    assert bool(head(hidden, one_word, patches).isfinite().all())


def test_it_survives_the_disk_and_damage_is_told(tmp_path: Path) -> None:
    head = a_head()
    head.save(tmp_path)
    loaded = load_alignment(tmp_path)
    assert loaded is not None
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, atol=0, rtol=0)
    assert load_alignment(tmp_path / "elsewhere") is None
    (tmp_path / ALIGNMENT_NAME).write_bytes((tmp_path / ALIGNMENT_NAME).read_bytes()[:100])
    with pytest.raises(InvalidCheckpoint, match="no alignment head can be read"):
        load_alignment(tmp_path)


def test_a_fusion_encoder_beside_the_encoder_lends_its_alignment(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = FusionEncoderConfig(token_dim=10, text_width=12, grid_height=7, grid_width=7, num_layers=0)
    fusion = FusionEncoder(config).eval()
    torch.nn.init.constant_(fusion.alignment_scale, 3.0)
    save_fusion_checkpoint(tmp_path, FusionCheckpoint(fusion, "e" * 64, Combination(), Calibration()), notes={})
    found = load_alignment(tmp_path)
    assert found is not None
    assert float(found.alignment_scale.detach()) == 3.0
    torch.testing.assert_close(found.alignment.word.weight, fusion.alignment.word.weight, atol=1e-3, rtol=1e-2)
    a_head().save(tmp_path)  # what was trained with the encoder goes first
    own = load_alignment(tmp_path)
    assert own is not None
    assert float(own.alignment_scale.detach()) != 3.0
