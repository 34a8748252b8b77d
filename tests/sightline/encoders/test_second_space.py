"""The second space against its definition in plain Python, and as a part of the match logit."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, Priors, Words
from sightline.encoders.fusion_explanation import explain

CONFIG = FusionEncoderConfig(
    token_dim=10,
    text_width=12,
    grid_height=2,
    grid_width=3,
    width=8,
    num_layers=0,
    num_bank_words=6,
    num_bank_texts=2,
    num_bank_images=4,
    feature_dim=20,
    num_component_rows=2,
    num_embedding_rows=1,
    second_hidden_dim=16,
)
NUM_ROWS = 6 + 3


@pytest.fixture
def encoder() -> FusionEncoder:
    torch.manual_seed(0)
    encoder = FusionEncoder(CONFIG).eval()
    assert encoder.second is not None
    with torch.no_grad():
        encoder.banks.words.copy_(torch.nn.functional.normalize(torch.randn(6, 8), dim=-1))
        encoder.banks.word_weights.fill_(1 / 3)
        encoder.banks.text_by_word.copy_(torch.tensor([0, 0, 0, 1, 1, 1]))
        encoder.banks.patches.copy_(encoder.project(torch.randn(4, 6, 10), torch.randn(4, 20)))
        encoder.second.bank_texts.copy_(torch.nn.functional.normalize(torch.randn(2, 8), dim=-1))
    return encoder


def texts() -> Words:
    generator = torch.Generator().manual_seed(1)
    return Words(torch.randn(3, 4, 12, generator=generator), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool())


def stored(encoder: FusionEncoder, num_images: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    tokens, features = torch.randn(num_images, 6, 10, generator=generator), torch.randn(num_images, 20, generator=generator)
    with torch.no_grad():
        return encoder.project(tokens, features)


def switched_on(encoder: FusionEncoder, *, weight: float, of_images: float, of_texts: float) -> FusionEncoder:
    assert encoder.second is not None
    encoder.second.weight.fill_(weight)
    encoder.second.strengths.copy_(torch.tensor([of_images, of_texts]))
    return encoder


def cosine(one: list[float], other: list[float]) -> float:
    length = math.sqrt(sum(x * x for x in one) * sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / length


def log_mean_exp(values: list[float], factor: float) -> float:
    return math.log(sum(math.exp(factor * value) for value in values) / len(values)) / factor


@torch.no_grad()
def test_what_it_adds_is_the_weighted_cosine_less_both_priors(encoder: FusionEncoder) -> None:
    """A number at a time, with nothing of torch but the two projections."""
    second, rows, words = encoder.second, stored(encoder), texts()
    assert second is not None
    without = encoder(words, rows)
    with_it = switched_on(encoder, weight=7.0, of_images=0.5, of_texts=0.75)(words, rows)

    pictures = [rows[image, 8:].flatten().tolist() for image in range(5)]  # behind six patches and two rows of components
    bank_pictures = [encoder.banks.patches[image, 8:].flatten().tolist() for image in range(4)]
    for text in range(3):
        kept = [words.hidden_states[text, place] for place in range(4) if words.mask[text, place]]
        mean = torch.tensor([sum(float(row[number]) for row in kept) / len(kept) for number in range(12)])
        embedded = second.text(mean[None])[0].tolist()
        of_text = log_mean_exp([cosine(embedded, each) for each in bank_pictures], 10.0)
        for image in range(5):
            of_image = log_mean_exp([cosine(pictures[image], each) for each in second.bank_texts.tolist()], 20.0)
            expected = 7.0 * (cosine(embedded, pictures[image]) - 0.5 * of_image - 0.75 * of_text)
            assert float(with_it[text, image] - without[text, image]) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_stored_rows_are_patches_then_components_then_the_embedding(encoder: FusionEncoder) -> None:
    second = encoder.second
    assert second is not None
    tokens, features = torch.randn(3, 6, 10), torch.randn(3, 20)
    rows = encoder.project(tokens, features)
    assert rows.shape == (3, NUM_ROWS, 8)
    assert CONFIG.num_patches + CONFIG.num_whole_rows == NUM_ROWS
    torch.testing.assert_close(encoder.grid_of(rows), encoder.patch_projection(tokens))
    standardised = (features - second.feature_mean) / second.feature_std
    torch.testing.assert_close(rows[:, 6:8].flatten(1), standardised @ second.components.weight.T)
    torch.testing.assert_close(rows[:, 8:].flatten(1).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(second.embeddings_in(encoder.whole_of(rows)), rows[:, 8])


@torch.no_grad()
def test_priors_that_are_known_beforehand_are_those_that_are_computed(encoder: FusionEncoder) -> None:
    """A picture's prior is stored with its rows: one number for alignment and second space together."""
    words, rows = texts(), stored(encoder)
    encoder.banks.strengths.copy_(torch.tensor([0.75, 0.5]))
    switched_on(encoder, weight=5.0, of_images=1.0, of_texts=0.5)
    pairs = encoder.forward_pairs(words, rows, text_by_pair=torch.tensor([0, 2, 1]), image_by_pair=torch.tensor([4, 0, 3]))
    torch.testing.assert_close(pairs, encoder(words, rows)[[0, 2, 1], [4, 0, 3]], atol=1e-4, rtol=1e-4)
    alone = torch.cat([encoder.image_priors(rows[place : place + 1]) for place in range(5)])
    torch.testing.assert_close(alone, encoder.image_priors(rows), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_texts_with_pictures_of_their_own_are_read_as_all_with_all(encoder: FusionEncoder) -> None:
    words, rows = texts(), stored(encoder)
    encoder.banks.strengths.copy_(torch.tensor([0.75, 0.5]))
    switched_on(encoder, weight=5.0, of_images=1.0, of_texts=0.5)
    own = torch.arange(len(words.mask))[:, None] + torch.tensor([0, 2])  # (texts, images)
    priors = Priors(encoder.image_priors(rows)[own], encoder.text_priors(words))
    expected = encoder(words, rows).gather(1, own)
    torch.testing.assert_close(encoder.forward_each(words, rows[own], priors=priors), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_frozen_of_the_bank_changes_no_logit(encoder: FusionEncoder) -> None:
    words, rows = texts(), stored(encoder)
    encoder.banks.strengths.copy_(torch.tensor([0.75, 0.5]))
    switched_on(encoder, weight=5.0, of_images=1.0, of_texts=0.5)
    plain = encoder(words, rows)
    with torch.autocast("cpu", torch.bfloat16):
        plain_in_half = encoder(words, rows)
    encoder.freeze(torch.bfloat16)
    torch.testing.assert_close(encoder(words, rows), plain)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder(words, rows), plain_in_half, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_explanation_is_over_the_grid_and_of_the_whole_logit(encoder: FusionEncoder) -> None:
    rows = stored(encoder)[:1]
    switched_on(encoder, weight=5.0, of_images=1.0, of_texts=0.5)
    one = Words(texts().hidden_states[:1], texts().mask[:1])
    found = explain(encoder, one, rows)
    assert found.logit == pytest.approx(float(encoder(one, rows)[0, 0]), abs=1e-4)
    assert found.relevance.shape == (4, 6)
    assert found.overall.shape == (2, 3)


@torch.no_grad()
def test_the_likelihood_reads_the_components_too() -> None:
    torch.manual_seed(0)
    encoder = FusionEncoder(replace(CONFIG, num_vocabulary=3)).eval()
    assert encoder.likelihood is not None
    rows = stored(encoder)
    moved = rows.clone()
    moved[:, 6:8] += 1.0
    words = torch.arange(3)
    assert not torch.allclose(encoder.likelihood.log_ratios(rows, words), encoder.likelihood.log_ratios(moved, words))
    moved = rows.clone()
    moved[:, 8:] += 1.0  # of the embedding it knows nothing
    torch.testing.assert_close(encoder.likelihood.log_ratios(rows, words), encoder.likelihood.log_ratios(moved, words))
