"""BERT without padding gives what transformers' own forward pass gives, up to rounding."""

import copy
import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from sightline.encoders.ragged_bert import RaggedBert, is_plain_bert
from tests.sightline.encoders.native_dtypes import native_dtypes

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


@functools.cache
def cast_bert(dtype: torch.dtype) -> Any:
    """The same with its linear layers in that type."""
    model = copy.deepcopy(EXACT)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
    return model


@functools.cache
def ragged_bert(dtype: torch.dtype) -> RaggedBert:
    """What takes its place."""
    return RaggedBert(cast_bert(dtype))


def batch_of(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of texts of those lengths."""
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(sum(lengths)))
    return ids * mask, mask.long()


@torch.inference_mode()
def states(model: nn.Module, ids: Tensor, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Hidden states as an encoder computes them in that type, those of padding left out."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        hidden: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    assert hidden.shape == (*ids.shape, WIDTH)
    return hidden[mask.bool()].float()


@pytest.mark.parametrize("dtype", native_dtypes())
@settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, LONGEST), min_size=1, max_size=9))
def test_it_is_as_near_to_float32_as_transformers_is(dtype: torch.dtype, lengths: list[int]) -> None:
    ids, mask = batch_of(lengths)
    exact, own, theirs = states(EXACT, ids, mask), states(ragged_bert(dtype), ids, mask, dtype), states(cast_bert(dtype), ids, mask, dtype)
    scale = exact.norm(dim=1).mean()
    if dtype is torch.float32:
        torch.testing.assert_close(own, exact, rtol=0, atol=float(2e-5 * scale))
        return
    assert (own - exact).norm(dim=1).max() < 0.03 * scale
    assert (own - exact).norm(dim=1).mean() < 1.3 * (theirs - exact).norm(dim=1).mean()


@pytest.mark.parametrize("dtype", native_dtypes())
def test_padding_is_zero_and_changes_nothing(dtype: torch.dtype) -> None:
    ids, mask = batch_of([3, 17, 1])
    ragged = ragged_bert(dtype)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        padded = ragged(input_ids=ids, attention_mask=mask).last_hidden_state
        assert not padded[~mask.bool()].any()
        for row, length in enumerate((3, 17, 1)):
            alone = ragged(input_ids=ids[row : row + 1, :length], attention_mask=mask[row : row + 1, :length]).last_hidden_state[0]
            torch.testing.assert_close(padded[row, :length], alone, rtol=0, atol=0.1 if dtype is torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("dtype", native_dtypes())
def test_what_pads_may_be_anything(dtype: torch.dtype) -> None:
    ids, mask = batch_of([4, 9])
    other = torch.where(mask.bool(), ids, torch.full_like(ids, 7))
    ragged = ragged_bert(dtype)
    torch.testing.assert_close(states(ragged, ids, mask, dtype), states(ragged, other, mask, dtype), rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"hidden_act": "relu"}, {"is_decoder": True}])
def test_another_kind_is_left_to_transformers(changes: dict[str, object]) -> None:
    assert not is_plain_bert(seeded_bert(**changes), torch.float32)


def test_only_layers_in_the_type_that_is_computed_in_are_taken() -> None:
    assert is_plain_bert(EXACT, torch.float32)
    assert not is_plain_bert(EXACT, torch.bfloat16)
    assert is_plain_bert(cast_bert(torch.bfloat16), torch.bfloat16)
    assert not is_plain_bert(cast_bert(torch.bfloat16), torch.float32)
    other = DistilBertModel(DistilBertConfig(vocab_size=VOCABULARY, dim=WIDTH, n_heads=4, n_layers=1, hidden_dim=96))
    assert not is_plain_bert(other, torch.float32)
