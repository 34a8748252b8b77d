"""Fitting the second space: two projections over the second backbone's features and the means of texts' hidden states, by ITC.

Neither backbone moves, so that an epoch over seven thousand pictures takes a second or two, and after a kill it is done again and not
continued. The features are reduced to their principal components first, which is what an index stores of them.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.encoders.fusion_encoder import FusionEncoder
from sightline.encoders.second_space import SecondSpace
from sightline.training.fusion_fit import captioned_places
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.losses import itc_loss, same_caption_mask
from sightline.training.projection_fit import check_finite
from sightline.training.schedule import cosine_cycle
from sightline.training.token_cache import CachedTokens, principal_components

logger = logging.getLogger(__name__)

FIRST_LOGIT_SCALE = 35.0
"""As the first space's begins (docs/training.md)."""


def fit_second_space(model: FusionEncoder, training_sets: Sequence[CachedTokens], *, options: FusionFitOptions) -> FusionEncoder:
    """The same encoder with a second space, which has no weight in the match logit yet; itself where no features were cached.

    The model has no banks yet. Raises `InvalidTraining` for a loss that is no number.
    """
    if any(cached.image_features is None for cached in training_sets):
        return model
    started = time.monotonic()
    device = next(model.parameters()).device
    pictures = _Pictures.of(training_sets)
    torch.manual_seed(options.seed)
    config = dataclasses.replace(model.config, feature_dim=pictures.features.shape[-1], second_hidden_dim=options.second_hidden_dim)
    whole = FusionEncoder(config).to(device)
    whole.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name != "banks.patches"}, strict=False)
    second = whole.second
    assert second is not None
    _begin_with_components(second, pictures.features)
    with torch.no_grad():
        components = second.components_of(pictures.features.flatten(0, 1).float().to(device)).view(*pictures.features.shape[:2], -1)
        second.image.standardise(components.flatten(0, 1))
        second.text.standardise(pictures.text_means.float().to(device))
    loss = _fit(second, components, pictures, options)
    logger.info("second space over %d features in %.0f s, loss %.3f", config.feature_dim, time.monotonic() - started, loss)
    return whole.eval()


@dataclasses.dataclass(frozen=True, slots=True)
class _Pictures:
    """What the space is learnt from, picture by picture."""

    features: Tensor  # (pictures, views, feature_dim), fp16
    text_means: Tensor  # (texts, text_width), fp16: the mean of each text's hidden states
    text_start: NDArray[np.int64]  # (pictures + 1,): the texts of a picture lie side by side
    caption_ids: NDArray[np.int64]  # (texts,)

    @classmethod
    def of(cls, training_sets: Sequence[CachedTokens]) -> "_Pictures":
        features, means, counts, caption_ids = [], [], [], []
        for cached in training_sets:
            assert cached.image_features is not None
            places = captioned_places([cached])[:, 1]
            rows = places[:, np.newaxis] * cached.num_views + np.arange(cached.num_views)  # (pictures, views)
            features.append(torch.from_numpy(cached.image_features[rows.reshape(-1)]).view(*rows.shape, -1))
            texts = [cached.texts_of(int(picture)) for picture in places]
            counts += [len(each) for each in texts]
            chosen = np.concatenate(texts)
            means.append(torch.from_numpy(text_means(cached, chosen)))
            caption_ids.append(cached.caption_ids[chosen])
        views = min(each.shape[1] for each in features)
        start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(torch.cat([each[:, :views] for each in features]), torch.cat(means), start, np.concatenate(caption_ids))


def text_means(cached: CachedTokens, texts: NDArray[np.int64]) -> NDArray[np.float16]:
    """The mean hidden state of each of the texts: (texts, text_width)."""
    sums = np.add.reduceat(cached.text_tokens.astype(np.float32), cached.text_start[:-1], axis=0)  # (all texts, text_width)
    lengths = np.diff(cached.text_start)
    return (sums[texts] / lengths[texts, np.newaxis]).astype(np.float16)


def _begin_with_components(second: SecondSpace, features: Tensor) -> None:
    basis = principal_components(features.flatten(0, 1).float().numpy(), num_components=second.components.out_features)
    missing = second.components.out_features - basis.num_components  # of features fewer than there is room for
    with torch.no_grad():
        second.feature_mean.copy_(torch.from_numpy(basis.mean))
        second.feature_std.copy_(torch.from_numpy(basis.std))
        second.components.weight.copy_(nn.functional.pad(torch.from_numpy(basis.components).T, (0, 0, 0, missing)))
    second.components.requires_grad_(False)


def _fit(second: SecondSpace, components: Tensor, pictures: _Pictures, options: FusionFitOptions) -> float:
    """ITC over batches; the averaged weights stay. Gives the last loss."""
    device = components.device
    second.image.input_dropout.p, second.image.hidden_dropout.p = options.second_image_input_dropout, options.second_image_dropout
    second.text.input_dropout.p, second.text.hidden_dropout.p = options.second_text_input_dropout, options.second_text_dropout
    log_scale = nn.Parameter(torch.tensor(FIRST_LOGIT_SCALE, device=device).log())
    parameters = [*second.image.parameters(), *second.text.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, options.second_learning_rate, weight_decay=options.weight_decay)
    average = {name: tensor.detach().clone() for name, tensor in second.state_dict().items()}
    num_steps = options.second_epochs * max(1, len(components) // options.second_batch_size)
    last = float("nan")
    second.train()
    for step, (rows, views, texts) in enumerate(_batches(pictures, options)):
        for group in optimizer.param_groups:
            group["lr"] = options.second_learning_rate * cosine_cycle(step, num_steps)
        images = second.embed_images(components[rows, views])
        words = nn.functional.normalize(second.text(pictures.text_means[texts].float().to(device)), dim=-1)
        own = torch.arange(len(rows), device=device)
        is_same = same_caption_mask(torch.from_numpy(pictures.caption_ids[texts]).to(device), own, num_pictures=len(rows))
        loss = itc_loss(
            words @ images.T, own, is_same_caption=is_same, logit_scale=log_scale.exp(), label_smoothing=options.label_smoothing
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        check_finite(loss.detach(), loss.detach(), step=step + 1)
        optimizer.step()
        with torch.no_grad():
            for name, tensor in second.state_dict().items():
                average[name].lerp_(tensor, 1 - options.average_decay)
        last = float(loss.detach())
    second.load_state_dict(average)
    second.eval()
    return last


def _batches(pictures: _Pictures, options: FusionFitOptions) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Pictures, a view and a text of each: every picture once an epoch, but for a last batch that is short."""
    generator = np.random.default_rng([options.seed, 31])
    num_pictures, num_views, _ = pictures.features.shape
    size = min(options.second_batch_size, num_pictures)
    for _ in range(options.second_epochs):
        order = generator.permutation(num_pictures)
        for start in range(0, num_pictures - size + 1, size):
            rows = order[start : start + size]
            counts = np.diff(pictures.text_start)[rows]
            texts = pictures.text_start[rows] + (generator.random(size) * counts).astype(np.int64)
            yield rows, generator.integers(num_views, size=size), texts
