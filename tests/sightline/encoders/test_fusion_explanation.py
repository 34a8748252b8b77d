"""Relevance against finite differences of a plain forward pass, and against what it claims: deleting what is relevant lowers the logit."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sightline.encoders.fusion_encoder import Attention, FusionEncoder, Words
from sightline.encoders.fusion_explanation import explain
from tests.sightline.encoders.test_fusion_encoder import CONFIG, some_patches, some_texts

NUM_WORDS = 4


@pytest.fixture
def encoder() -> FusionEncoder:
    torch.manual_seed(0)
    encoder = FusionEncoder(CONFIG).double()
    torch.nn.init.normal_(encoder.head.weight)
    return encoder.eval()


def one_text() -> Words:
    texts = some_texts((NUM_WORDS,))
    return Words(texts.hidden_states, texts.mask)


Change = Callable[[str, int, np.ndarray], np.ndarray]


def plain_logit(encoder: FusionEncoder, words: Words, patches: Tensor, change: Change) -> float:
    """The definition in loops over words and heads; `change` is given each attention (its place, the head, its values) to alter it."""
    hidden = functional.layer_norm(words.hidden_states[0], words.hidden_states.shape[-1:])
    weights = encoder.alignment.weight(hidden)[:, 0].softmax(0)
    unit = functional.normalize(encoder.alignment.word(hidden), dim=-1)
    attention = torch.stack([(patches @ word * encoder.alignment.log_sharpness.exp()).softmax(0) for word in unit])
    attention = torch.from_numpy(change("alignment", 0, attention.detach().numpy().copy()))
    aligned = sum(
        float(weight) * float((row @ patches) @ word / (row @ patches).norm())
        for row, word, weight in zip(attention, unit, weights, strict=True)
    )
    tokens = encoder.text_projection(hidden)
    placed = encoder.patch_norm(patches) + encoder.patch_position
    for number, layer in enumerate(encoder.layers):
        normed = layer.self_norm(tokens)
        tokens = tokens + plain_attention(layer.self_attention, normed, normed, lambda _head, values: values)
        tokens = tokens + plain_attention(layer.cross_attention, layer.cross_norm(tokens), placed, partial(change, f"layer {number}"))
        tokens = tokens + layer.feed_forward(layer.feed_norm(tokens))
    return float(encoder.alignment_scale.exp() * aligned + encoder.head(encoder.head_norm(tokens[0]))[0])


def plain_attention(attention: Attention, tokens: Tensor, memory: Tensor, change: Callable[[int, np.ndarray], np.ndarray]) -> Tensor:
    queries = attention.query(tokens)
    keys, values = attention.key_value(memory).chunk(2, dim=-1)
    head_dim = CONFIG.width // CONFIG.num_heads
    outs = []
    for head in range(CONFIG.num_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        probabilities = (queries[:, part] @ keys[:, part].T / head_dim**0.5).softmax(dim=-1)
        outs.append(torch.from_numpy(change(head, probabilities.detach().numpy().copy())) @ values[:, part])
    out: Tensor = attention.out(torch.cat(outs, dim=-1))
    return out


def nudged(wanted: tuple[str, int], entry: tuple[int, int], place: str, head: int, values: np.ndarray) -> np.ndarray:
    """One entry of one attention a little higher."""
    if (place, head) == wanted:
        values[entry] += 1e-6
    return values


@torch.no_grad()
def plain_relevance(encoder: FusionEncoder, words: Words, patches: Tensor) -> np.ndarray:
    """Attention times the slope of the logit along it, by finite differences, one entry at a time."""
    entries: dict[tuple[str, int], np.ndarray] = {}

    def note(place: str, head: int, values: np.ndarray) -> np.ndarray:
        entries[place, head] = values
        return values

    logit = plain_logit(encoder, words, patches, note)
    relevance = np.zeros((NUM_WORDS, CONFIG.num_patches))
    for (place, head), attention in entries.items():
        for word in range(NUM_WORDS):
            for patch in range(CONFIG.num_patches):

                def nudge(
                    at: str, of: int, values: np.ndarray, *, place: str = place, head: int = head, w: int = word, p: int = patch
                ) -> np.ndarray:
                    if (at, of) == (place, head):
                        values[w, p] += 1e-6
                    return values

                slope = (plain_logit(encoder, words, patches, nudge) - logit) / 1e-6
                share = 1 if place == "alignment" else 1 / CONFIG.num_heads
                relevance[word, patch] += share * max(0.0, attention[word, patch] * slope)
    return relevance


def test_relevance_is_attention_times_the_slope_of_the_logit(encoder: FusionEncoder) -> None:
    words, patches = one_text(), some_patches(encoder, 1)

    explanation = explain(encoder, words, patches)

    with torch.no_grad():
        assert explanation.logit == pytest.approx(float(encoder(words, patches)[0, 0]), abs=1e-5)
        assert explanation.logit == pytest.approx(plain_logit(encoder, words, patches[0], lambda _place, _head, values: values), abs=1e-5)
    np.testing.assert_allclose(explanation.relevance, plain_relevance(encoder, words, patches[0]), atol=2e-4)
    assert explanation.relevance.max() > 0.01


def test_maps_lie_on_the_grid_and_shares_sum_to_one(encoder: FusionEncoder) -> None:
    explanation = explain(encoder, one_text(), some_patches(encoder, 1))

    assert explanation.map_of(2).shape == (CONFIG.grid_height, CONFIG.grid_width)
    np.testing.assert_allclose(sum(explanation.map_of(word) for word in range(NUM_WORDS)), explanation.overall, atol=1e-6)
    assert explanation.word_shares.sum() == pytest.approx(1, abs=1e-5)


def test_explaining_works_within_inference_mode_and_leaves_no_gradients(encoder: FusionEncoder) -> None:
    words, patches = one_text(), some_patches(encoder, 1).detach()
    expected = explain(encoder, words, patches).relevance
    with torch.no_grad():
        np.testing.assert_array_equal(explain(encoder, words, patches).relevance, expected)
    assert all(parameter.grad is None for parameter in encoder.parameters())
