"""The likelihood of words, learnt in the made-up world of `test_fusion_fit`: pictures of things, and captions that name them."""

from dataclasses import replace

import numpy as np
import torch

from sightline.encoders.fusion_encoder import FusionEncoder
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.likelihood_fit import fit_likelihood, frequent_tokens
from tests.sightline.training.worlds import CONFIG, NUM_THINGS, scenes

OPTIONS = FusionFitOptions(likelihood_epochs=30, likelihood_batch_size=32, likelihood_dropout=0.1, average_decay=0.8)


def fitted(options: FusionFitOptions = OPTIONS) -> FusionEncoder:
    torch.manual_seed(0)
    return fit_likelihood(FusionEncoder(replace(CONFIG, num_layers=0)).eval(), [scenes(400, seed=1)], options=options)


def test_words_are_likely_of_pictures_of_their_things_that_were_never_seen() -> None:
    model, held_out = fitted(), scenes(60, seed=2)
    assert model.likelihood is not None
    assert model.likelihood.vocabulary.tolist() == list(range(NUM_THINGS))
    with torch.no_grad():
        patches = model.project(torch.from_numpy(held_out.image_tokens[::2].astype(np.float32)))
        ratios = model.likelihood.log_ratios(patches, torch.arange(NUM_THINGS)).numpy()  # (pictures, things)
    is_shown = np.zeros(ratios.shape, dtype=np.bool_)
    for picture in range(60):
        is_shown[picture, held_out.ids_of(picture)[1:]] = True
    both_first = np.take_along_axis(is_shown, np.argsort(-ratios, axis=1)[:, :2], axis=1).mean()
    assert both_first > 0.9, both_first
    assert np.median(ratios[is_shown]) > 0.5
    assert np.median(ratios[~is_shown]) < -0.5


def test_the_same_options_give_the_same_network() -> None:
    quick = replace(OPTIONS, likelihood_epochs=2)
    one, two = fitted(quick), fitted(quick)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, two.state_dict()[name], atol=0, rtol=0)


def test_words_that_all_or_too_few_captions_have_are_left_out() -> None:
    cached = scenes(60, seed=1)
    counts = np.bincount(cached.text_token_ids, minlength=NUM_THINGS + 1)
    at_least = int(np.sort(counts[:NUM_THINGS])[3])
    found = frequent_tokens([cached], least_captions=at_least)
    assert found.tolist() == [thing for thing in range(NUM_THINGS) if counts[thing] >= at_least]


def test_without_frequent_words_or_epochs_the_encoder_stays_as_it_is() -> None:
    model = FusionEncoder(CONFIG)
    assert fit_likelihood(model, [scenes(20, seed=1)], options=replace(OPTIONS, vocabulary_least_captions=1000)) is model
    assert fit_likelihood(model, [scenes(20, seed=1)], options=replace(OPTIONS, likelihood_epochs=0)) is model
