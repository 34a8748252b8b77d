"""The second space, learnt in the made-up world of `worlds`, whose features tell what is in a picture and its tokens do not."""

from dataclasses import replace

import numpy as np
import torch

from sightline.encoders.fusion_encoder import FusionEncoder
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.second_space_fit import fit_second_space, text_means
from sightline.training.token_cache import CachedTokens
from tests.sightline.training.worlds import CONFIG, NUM_THINGS, scenes

FEATURE_DIM = 30
OPTIONS = FusionFitOptions(
    second_epochs=30,
    second_batch_size=40,
    second_hidden_dim=64,
    second_image_dropout=0.1,
    second_image_input_dropout=0.1,
    average_decay=0.8,
)


def with_features(num_pictures: int, *, seed: int) -> CachedTokens:
    """Scenes whose features hold both things of a picture, turned by a matrix and with noise."""
    cached = scenes(num_pictures, seed=seed)
    turn = np.random.default_rng(7).standard_normal((NUM_THINGS, FEATURE_DIM))
    things = np.zeros((num_pictures, NUM_THINGS))
    for picture in range(num_pictures):
        things[picture, cached.ids_of(picture)[1:]] = 1
    noise = np.random.default_rng(seed).standard_normal((num_pictures * 2, FEATURE_DIM)) * 0.3
    return replace(cached, image_features=(np.repeat(things @ turn, 2, axis=0) + noise).astype(np.float16))


def fitted(options: FusionFitOptions = OPTIONS) -> FusionEncoder:
    torch.manual_seed(0)
    bare = FusionEncoder(replace(CONFIG, num_layers=0)).eval()
    return fit_second_space(bare, [with_features(400, seed=1)], options=options)


def test_pictures_that_were_never_seen_lie_near_the_texts_that_name_their_things() -> None:
    model, held_out = fitted(), with_features(60, seed=2)
    assert model.second is not None
    assert not model.second.training
    assert float(model.second.weight) == 0
    words = held_out.words(np.arange(60), max_words=8)
    with torch.no_grad():
        rows = held_out.stored_rows(model, np.arange(60) * 2)
        similarities = model.second.similarities(words.hidden_states, words.mask, model.whole_of(rows)).numpy()  # (texts, pictures)
    own = similarities[np.arange(60), np.arange(60)]
    others = np.where(held_out.caption_ids[:, None] == held_out.caption_ids[None], -1, similarities)
    assert (own > others.max(axis=1)).mean() > 0.8


def test_components_of_fewer_features_than_there_is_room_for_are_zeros() -> None:
    model = fitted(replace(OPTIONS, second_epochs=1))
    assert model.second is not None
    weight = model.second.components.weight
    assert weight.shape == (2 * CONFIG.width, FEATURE_DIM)
    assert bool((weight[FEATURE_DIM:] == 0).all())
    torch.testing.assert_close(weight[:FEATURE_DIM] @ weight[:FEATURE_DIM].T, torch.eye(FEATURE_DIM), atol=1e-4, rtol=0)


def test_the_same_options_give_the_same_space() -> None:
    quick = replace(OPTIONS, second_epochs=2)
    one, two = fitted(quick), fitted(quick)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, two.state_dict()[name], atol=0, rtol=0)


def test_without_features_the_encoder_stays_as_it_is() -> None:
    model = FusionEncoder(CONFIG)
    assert fit_second_space(model, [scenes(20, seed=1)], options=OPTIONS) is model


def test_a_texts_mean_is_that_of_its_own_words() -> None:
    cached = with_features(5, seed=3)
    found = text_means(cached, np.array([3, 0]))
    expected = [cached.text_tokens[9:12].astype(np.float32).mean(axis=0), cached.text_tokens[0:3].astype(np.float32).mean(axis=0)]
    np.testing.assert_allclose(found, expected, atol=2e-3)
