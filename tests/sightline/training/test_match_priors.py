"""Priors: banks as drawn, what validation says of them, and that the fitted encoder takes off what the fit saw."""

from dataclasses import replace

import numpy as np
import torch

from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, Words
from sightline.training.match_priors import BankImages, fit_priors, with_banks
from tests.sightline.training.judgements import judged

CONFIG = FusionEncoderConfig(token_dim=10, text_width=12, grid_height=2, grid_width=2, width=8, num_layers=1, num_heads=2, hidden_dim=8)


def a_model() -> FusionEncoder:
    torch.manual_seed(0)
    model = FusionEncoder(CONFIG).eval()
    generator = np.random.default_rng(0)
    texts = [generator.normal(size=(length, 12)).astype(np.float32) for length in (3, 5, 2)]
    return with_banks(model, texts, BankImages(generator.normal(size=(4, 4, 10)).astype(np.float32), None))


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


def test_the_second_space_has_its_own_banks() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, num_layers=0, feature_dim=20, num_component_rows=1, num_embedding_rows=2)
    model = FusionEncoder(config).eval()
    generator = np.random.default_rng(0)
    texts = [generator.normal(size=(length, 12)).astype(np.float32) for length in (3, 5, 2)]
    features = generator.normal(size=(4, 20)).astype(np.float32)
    banked = with_banks(model, texts, BankImages(generator.normal(size=(4, 4, 10)).astype(np.float32), features))
    assert banked.second is not None
    with torch.no_grad():
        for text, bank_text in zip(texts, banked.second.bank_texts, strict=True):
            alone = banked.second.embed_texts(torch.from_numpy(text)[None], torch.ones(1, len(text)))[0]
            torch.testing.assert_close(bank_text, alone)
        components = banked.second.components_of(torch.from_numpy(features))
        torch.testing.assert_close(banked.second.components_in(banked.banks.whole_rows), components)
        embedded = banked.second.embed_images(components)
        torch.testing.assert_close(banked.second.embeddings_in(banked.banks.whole_rows), embedded)


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
