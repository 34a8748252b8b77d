"""What each reading counts: as much as puts right answers first, and nothing where it would not."""

from dataclasses import replace

import numpy as np
import torch

from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig
from sightline.encoders.matcher import Combination, evidence
from sightline.training.fusion_judging import SecondSimilarities
from sightline.training.reading_weights import (
    LENGTH_EXPONENTS,
    LIKELIHOOD_WEIGHTS,
    SECOND_WEIGHTS,
    fit_length_exponent,
    fit_reading_weights,
)
from tests.sightline.training.judgements import judged

CONFIG = FusionEncoderConfig(token_dim=10, text_width=12, grid_height=2, grid_width=2, width=8, num_layers=0)


def test_the_likelihood_counts_where_that_puts_right_answers_first_and_only_there() -> None:
    torch.manual_seed(0)
    model = FusionEncoder(replace(CONFIG, num_vocabulary=3))
    assert model.likelihood is not None
    generator = np.random.default_rng(2)
    noise, likely = generator.normal(size=(10, 5)).astype(np.float32), np.zeros((10, 5), dtype=np.float32)
    likely[:, 0] = 1
    nothing = np.zeros((10, 5), dtype=np.float32)
    helpful = replace(judged("text-to-image", noise, nothing), likelihoods=likely)
    (fitted,) = fit_reading_weights(model, [helpful])
    weight = float(model.likelihood.weight)
    assert weight > 0
    assert weight in LIKELIHOOD_WEIGHTS
    np.testing.assert_allclose(fitted.candidates.logits, noise + np.float32(weight) * likely)
    assert fitted.candidates.precision_at_k(1.0) > helpful.candidates.precision_at_k(1.0)

    harmful = replace(judged("image-to-text", likely, nothing), likelihoods=-likely)
    fit_reading_weights(model, [harmful])
    assert float(model.likelihood.weight) == 0


def test_the_second_space_counts_less_its_priors_where_that_puts_right_answers_first() -> None:
    torch.manual_seed(0)
    model = FusionEncoder(replace(CONFIG, feature_dim=20, num_component_rows=1, num_embedding_rows=1))
    assert model.second is not None
    generator = np.random.default_rng(3)
    noise, right = generator.normal(size=(40, 5)).astype(np.float32), np.zeros((40, 5), dtype=np.float32)
    right[:, 0] = 0.1
    popularity, nothing = generator.normal(size=(40, 5)).astype(np.float32), np.zeros((40, 5), dtype=np.float32)
    hidden = replace(judged("text-to-image", noise, nothing), second=SecondSimilarities(right + popularity, popularity, nothing))

    (fitted,) = fit_reading_weights(model, [hidden])

    weight, (of_images, _) = float(model.second.weight), model.second.strengths.tolist()
    assert weight > 0
    assert weight in SECOND_WEIGHTS
    assert of_images == 1  # popularity hides the right pictures unless all of it is off
    np.testing.assert_allclose(fitted.candidates.logits, noise + np.float32(weight) * right, atol=1e-4)
    assert fitted.candidates.precision_at_k(1.0) > hidden.candidates.precision_at_k(1.0)


def test_the_length_of_texts_is_taken_off_where_their_logits_are_noisy_sums() -> None:
    generator = np.random.default_rng(4)
    shape = (3000, 12)
    num_tokens = generator.integers(5, 60, shape)
    noise = generator.normal(size=shape) * num_tokens  # far more than the root of the length, so that it shows
    right = np.zeros(shape)
    right[:, 0] = 14.0
    logits = (noise + right).astype(np.float32)
    texts = replace(judged("image-to-text", logits, np.zeros(shape, dtype=np.float32)), num_tokens=num_tokens)
    similar = replace(texts.candidates, similarities=(0.02 * right + 0.2 * generator.normal(size=shape)).astype(np.float32))
    assert fit_length_exponent([replace(texts, candidates=similar)]) == min(LENGTH_EXPONENTS)

    even = replace(texts, candidates=replace(similar, logits=(right + 10 * generator.normal(size=shape)).astype(np.float32)))
    assert fit_length_exponent([even]) in LENGTH_EXPONENTS[:2]
    assert fit_length_exponent([judged("text-to-image", logits, np.zeros(shape, dtype=np.float32))]) == 0


def test_a_length_exponent_orders_as_a_combination_does() -> None:
    num_tokens = np.array([[3, 13, 26]])
    texts = replace(judged("image-to-text", np.ones((1, 3), dtype=np.float32), np.zeros((1, 3), dtype=np.float32)), num_tokens=num_tokens)
    factors = np.asarray(texts.with_length_exponent(-0.5).candidates.length_factors)
    np.testing.assert_allclose(factors, [[(13 / 3) ** 0.5, 1.0, 0.5**0.5]], rtol=1e-6)
    shares = Combination(0.1, 0.2, length_exponent=-0.5).shares_among_texts(num_tokens[0])
    np.testing.assert_allclose(shares, factors[0] * evidence(num_tokens[0]), rtol=1e-6)
    np.testing.assert_array_equal(Combination(0.1, 0.2).shares_among_texts(num_tokens[0]), evidence(num_tokens[0]))


def test_a_second_space_that_errs_counts_nothing() -> None:
    model = FusionEncoder(replace(CONFIG, feature_dim=20, num_component_rows=1, num_embedding_rows=1))
    assert model.second is not None
    nothing, right = np.zeros((10, 5), dtype=np.float32), np.zeros((10, 5), dtype=np.float32)
    right[:, 0] = 1
    harmful = replace(judged("image-to-text", right, nothing), second=SecondSimilarities(-right, nothing, nothing))
    fit_reading_weights(model, [harmful])
    assert float(model.second.weight) == 0
