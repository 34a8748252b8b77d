"""BERT without padding gives what transformers' own forward pass gives, up to the rounding of bfloat16."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from sightline.encoders.ragged_bert import RaggedBert, is_plain_bert

VOCABULARY, WIDTH, LONGEST = 60, 48, 20


def seeded_bert(**changes: Any) -> Any:
    """Of two layers, in float32, with weights so large that a wrong one shows."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = BertConfig(**{**shape, "max_position_embeddings": LONGEST, "initializer_range": 0.2, **changes})
    model: Any = BertModel(config, add_pooling_layer=False)
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
    return model


EXACT = seeded_bert()
CAST = copy.deepcopy(EXACT)
for module in CAST.modules():
    if isinstance(module, nn.Linear):
        module.to(torch.bfloat16)
RAGGED = RaggedBert(CAST)


def batch_of(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of texts of those lengths."""
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(sum(lengths)))
    return ids * mask, mask.long()


@torch.inference_mode()
def states(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden states as an encoder computes them, those of padding left out."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model is not EXACT):
        hidden: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert hidden.shape == (*ids.shape, WIDTH)
    return hidden[mask.bool()].float()


@settings(max_examples=40)
@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=9))
def test_it_is_as_near_to_float32_as_transformers_is(lengths: list[int]) -> None:
    ids, mask = batch_of(lengths)
    exact, own, theirs = (states(model, ids, mask) for model in (EXACT, RAGGED, CAST))
    scale = exact.norm(dim=1).mean()
    assert (own - exact).norm(dim=1).max() < 0.03 * scale
    assert (own - exact).norm(dim=1).mean() < 1.3 * (theirs - exact).norm(dim=1).mean()


def test_padding_is_zero_and_changes_nothing() -> None:
    ids, mask = batch_of([3, 17, 1])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        padded = RAGGED(input_ids=ids, attention_mask=mask).last_hidden_state
        assert not padded[~mask.bool()].any()
        for row, length in enumerate((3, 17, 1)):
            alone = RAGGED(input_ids=ids[row : row + 1, :length], attention_mask=mask[row : row + 1, :length]).last_hidden_state[0]
            torch.testing.assert_close(padded[row, :length], alone, rtol=0, atol=0.1)


def test_what_pads_may_be_anything() -> None:
    ids, mask = batch_of([4, 9])
    other = torch.where(mask.bool(), ids, torch.full_like(ids, 7))
    torch.testing.assert_close(states(RAGGED, ids, mask), states(RAGGED, other, mask), rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"hidden_act": "relu"}, {"is_decoder": True}])
def test_another_kind_is_left_to_transformers(changes: dict[str, object]) -> None:
    assert not is_plain_bert(seeded_bert(**changes).to(torch.bfloat16))


def test_only_layers_in_bfloat16_are_taken() -> None:
    assert is_plain_bert(CAST)
    assert not is_plain_bert(EXACT)
    assert not is_plain_bert(DistilBertModel(DistilBertConfig(vocab_size=VOCABULARY, dim=WIDTH, n_heads=4, n_layers=1, hidden_dim=96)))
