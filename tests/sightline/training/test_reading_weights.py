"""What each reading counts: as much as puts right answers first, and nothing where it would not."""

from dataclasses import replace

import numpy as np
import torch

from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig
from sightline.training.fusion_judging import SecondSimilarities
from sightline.training.reading_weights import LIKELIHOOD_WEIGHTS, SECOND_WEIGHTS, fit_reading_weights
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


def test_a_second_space_that_errs_counts_nothing() -> None:
    model = FusionEncoder(replace(CONFIG, feature_dim=20, num_component_rows=1, num_embedding_rows=1))
    assert model.second is not None
    nothing, right = np.zeros((10, 5), dtype=np.float32), np.zeros((10, 5), dtype=np.float32)
    right[:, 0] = 1
    harmful = replace(judged("image-to-text", right, nothing), second=SecondSimilarities(-right, nothing, nothing))
    fit_reading_weights(model, [harmful])
    assert float(model.second.weight) == 0
