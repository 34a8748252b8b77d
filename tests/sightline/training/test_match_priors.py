"""Priors: banks as drawn, what validation says of them, and that the fitted encoder takes off what the fit saw."""

from dataclasses import replace

import numpy as np
import torch

from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, Words
from sightline.training.fusion_calibration import JudgedCandidates
from sightline.training.fusion_judging import FACTORS, Judged
from sightline.training.match_priors import LIKELIHOOD_WEIGHTS, fit_likelihood_weight, fit_priors, with_banks

CONFIG = FusionEncoderConfig(token_dim=10, text_width=12, grid_height=2, grid_width=2, width=8, num_layers=1, num_heads=2, hidden_dim=8)


def a_model() -> FusionEncoder:
    torch.manual_seed(0)
    model = FusionEncoder(CONFIG).eval()
    generator = np.random.default_rng(0)
    texts = [generator.normal(size=(length, 12)).astype(np.float32) for length in (3, 5, 2)]
    return with_banks(model, texts, generator.normal(size=(4, 4, 10)).astype(np.float32))


def test_a_bank_changes_nothing_until_it_is_fitted() -> None:
    model = a_model()
    bare = FusionEncoder(CONFIG).eval()
    bare.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "banks" not in name}, strict=False)
    words = Words(torch.randn(2, 3, 12), torch.ones(2, 3, dtype=torch.bool))
    patches = model.project(torch.randn(3, 4, 10))
    with torch.no_grad():
        torch.testing.assert_close(model(words, patches), bare(words, patches))
    assert (model.config.num_bank_words, model.config.num_bank_texts, model.config.num_bank_images) == (10, 3, 4)
    assert model.banks.text_by_word.tolist() == [0] * 3 + [1] * 5 + [2] * 2


def judged(direction: str, logits: np.ndarray, prior: np.ndarray) -> Judged:
    """Ten queries over five candidates each, of which the first is right and similarity tells nothing."""
    is_relevant = np.zeros(logits.shape, dtype=np.bool_)
    is_relevant[:, 0] = True
    candidates = JudgedCandidates("made-up", np.zeros(logits.shape, dtype=np.float32), logits, is_relevant)
    priors, nothing = np.broadcast_to(prior, (len(FACTORS), *logits.shape)), np.zeros((len(FACTORS), *logits.shape))
    of_images, of_texts = (priors, nothing) if direction == "text-to-image" else (nothing, priors)
    return Judged(direction, candidates, of_images, of_texts, np.zeros(logits.shape, dtype=np.float32))


def test_a_prior_is_taken_off_where_that_puts_right_answers_first_and_only_there() -> None:
    generator = np.random.default_rng(1)
    popularity = generator.normal(size=(10, 5)).astype(np.float32) * 5
    own = np.zeros((10, 5), dtype=np.float32)
    own[:, 0] = 1
    model = a_model()
    of_images, of_texts = fit_priors(
        model, [judged("text-to-image", own + popularity, popularity), judged("image-to-text", own, popularity)]
    )
    assert model.banks.strengths.tolist() == [1.0, 0.0]  # popularity hides the right pictures, and nothing hides the right texts
    np.testing.assert_allclose(of_images.candidates.logits, own, atol=1e-5)
    np.testing.assert_allclose(of_texts.candidates.logits, own)
    assert of_images.candidates.precision_at_k(1.0) == 100


def test_the_likelihood_counts_where_that_puts_right_answers_first_and_only_there() -> None:
    torch.manual_seed(0)
    model = FusionEncoder(replace(CONFIG, num_vocabulary=3))
    assert model.likelihood is not None
    generator = np.random.default_rng(2)
    noise, likely = generator.normal(size=(10, 5)).astype(np.float32), np.zeros((10, 5), dtype=np.float32)
    likely[:, 0] = 1
    nothing = np.zeros((10, 5), dtype=np.float32)
    helpful = replace(judged("text-to-image", noise, nothing), likelihoods=likely)
    (fitted,) = fit_likelihood_weight(model, [helpful])
    weight = float(model.likelihood.weight)
    assert weight > 0
    assert weight in LIKELIHOOD_WEIGHTS
    np.testing.assert_allclose(fitted.candidates.logits, noise + np.float32(weight) * likely)
    assert fitted.candidates.precision_at_k(1.0) > helpful.candidates.precision_at_k(1.0)

    harmful = replace(judged("image-to-text", likely, nothing), likelihoods=-likely)
    fit_likelihood_weight(model, [harmful])
    assert float(model.likelihood.weight) == 0
