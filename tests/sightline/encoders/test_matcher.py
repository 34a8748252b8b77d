"""Match logits with priors that are known beforehand, beside those of the fusion encoder left to itself."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig, Words
from sightline.encoders.matcher import Calibration, Combination, FusionMatcher
from sightline.encoders.tokens import NO_TOKEN, TextTokens
from tests.api.tiny_fusion import NUM_BANK_IMAGES, NUM_BANK_TEXTS, WORDS_A_BANK_TEXT, fill_banks

NUM_PICTURES, TEXT_WIDTH, WIDTH = 70, 16, 32  # more pictures than are read in one go
LENGTHS = np.array([3, 7, 5])


@pytest.fixture(scope="module")
def model() -> FusionEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        num_words = NUM_BANK_TEXTS * WORDS_A_BANK_TEXT
        banks = {"num_bank_words": num_words, "num_bank_texts": NUM_BANK_TEXTS, "num_bank_images": NUM_BANK_IMAGES}
        model = FusionEncoder(FusionEncoderConfig(8, TEXT_WIDTH, 2, 2, width=WIDTH, num_layers=1, hidden_dim=32, **banks))
        torch.nn.init.normal_(model.head.weight)
        fill_banks(model)
    return model.eval()


@pytest.fixture
def matcher(model: FusionEncoder, monkeypatch: pytest.MonkeyPatch) -> FusionMatcher:
    """In single precision: with bfloat16, where a processor has it, a logit of thirty would be off by a tenth."""
    monkeypatch.setattr("sightline.encoders.matcher.autocast_dtype", lambda _: None)
    return FusionMatcher(
        model,
        fingerprint="f" * 64,
        encoder_fingerprint="e" * 64,
        combination=Combination(),
        calibration=Calibration(),
        device=torch.device("cpu"),
    )


@pytest.fixture(scope="module")
def patches() -> NDArray[np.float32]:
    values = np.random.default_rng(1).normal(size=(NUM_PICTURES, 4, WIDTH)).astype(np.float32)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return values


@pytest.fixture(scope="module")
def texts() -> TextTokens:
    hidden_states = np.random.default_rng(2).normal(size=(3, 7, TEXT_WIDTH)).astype(np.float32)
    hidden_states[np.arange(7) >= LENGTHS[:, np.newaxis]] = 0
    return TextTokens(hidden_states, LENGTHS, np.where(np.arange(7) < LENGTHS[:, np.newaxis], 5, NO_TOKEN))


@pytest.fixture(scope="module")
def plain(model: FusionEncoder, texts: TextTokens, patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network says when it computes its priors itself."""
    with torch.inference_mode():
        logits = model(Words(torch.from_numpy(texts.hidden_states), torch.from_numpy(texts.mask)), torch.from_numpy(patches))
    return np.asarray(logits.numpy())


ATOL = 1e-4  # of logits of some tens, in float32, added up in another order


@pytest.mark.parametrize("known", ["none", "some", "all"])
def test_logits_are_the_same_however_many_priors_are_known(
    matcher: FusionMatcher, texts: TextTokens, patches: NDArray[np.float32], plain: NDArray[np.float32], known: str
) -> None:
    priors = matcher.image_priors(patches)
    is_known = {"none": np.zeros(NUM_PICTURES, bool), "some": np.arange(NUM_PICTURES) % 3 == 0, "all": np.ones(NUM_PICTURES, bool)}[known]
    given = np.where(is_known, priors, np.float32(np.nan))
    given.flags.writeable = False  # as mapped files are

    np.testing.assert_allclose(matcher.match_logits(texts, patches, image_priors=given), plain, atol=ATOL)
    np.testing.assert_allclose(matcher.match_logits(texts, patches), plain, atol=ATOL)
    assert np.array_equal(np.isnan(given), ~is_known)


def test_priors_that_are_given_are_the_ones_that_are_taken_off(
    matcher: FusionMatcher, model: FusionEncoder, texts: TextTokens, patches: NDArray[np.float32], plain: NDArray[np.float32]
) -> None:
    of_images, of_texts = matcher.image_priors(patches), matcher.text_priors(texts)
    shifted = matcher.match_logits(texts, patches, image_priors=of_images + 1, text_priors=of_texts - np.float32(0.25))
    np.testing.assert_allclose(shifted, plain - 0.75 * float(model.alignment_scale.detach().exp()), atol=ATOL)


def test_a_picture_has_the_same_prior_alone_and_among_others(matcher: FusionMatcher, patches: NDArray[np.float32]) -> None:
    together = matcher.image_priors(patches)
    alone = np.concatenate([matcher.image_priors(patches[place : place + 1]) for place in (0, 33, 69)])
    np.testing.assert_allclose(alone, together[[0, 33, 69]], atol=1e-5)
    assert np.ptp(together) > 1e-3
    assert matcher.image_priors(patches[:0]).shape == (0,)
