"""Fitting the likelihood of words: which words of a vocabulary people use of a picture, learnt from all of its captions together.

A contrastive loss asks a caption to be nearer its picture than others are. This one asks of every picture and every word whether it
would be said, which is thousands of answers a picture instead of one, and errs elsewhere than the shared space and alignment do
(docs/training.md). It takes a minute, so that after a kill it is done again and not continued.
"""

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sightline.encoders.fusion_encoder import FusionEncoder, WordLikelihood
from sightline.training.fusion_fit import captioned_places
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.projection_fit import check_finite
from sightline.training.schedule import cosine_cycle
from sightline.training.token_cache import CachedTokens

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 256
_MIN_STD = 1e-3
_LEAST_SHARE = 1e-5  # of captions, of a word that only pictures without others' captions have


def fit_likelihood(model: FusionEncoder, training_sets: Sequence[CachedTokens], *, options: FusionFitOptions) -> FusionEncoder:
    """The same encoder with a likelihood over its patches, which has no weight in the match logit yet; itself where no word is frequent.

    Raises `InvalidTraining` for a loss that is no number.
    """
    vocabulary = frequent_tokens(training_sets, least_captions=options.vocabulary_least_captions)
    if not len(vocabulary) or not options.likelihood_epochs:
        return model
    started = time.monotonic()
    device = next(model.parameters()).device
    torch.manual_seed(options.seed)
    whole = FusionEncoder(dataclasses.replace(model.config, num_vocabulary=len(vocabulary))).to(device)
    whole.load_state_dict(model.state_dict(), strict=False)
    likelihood = whole.likelihood
    assert likelihood is not None
    pictures = _Pictures.of(whole, training_sets, vocabulary)
    with torch.no_grad():
        deviation, mean = torch.std_mean(pictures.features.flatten(0, 1), dim=0, correction=0)
        likelihood.feature_mean.copy_(mean)
        likelihood.feature_std.copy_(deviation + _MIN_STD)
        likelihood.vocabulary.copy_(torch.from_numpy(vocabulary))
        shares = pictures.shares.mean(dim=0).clamp_min(_LEAST_SHARE)
        likelihood.log_shares.copy_(shares.log())
        likelihood.out.weight.normal_(std=0.01)
        likelihood.out.bias.copy_(shares.log())
    loss = _fit(likelihood, pictures, options)
    logger.info("likelihood of %d words in %.0f s, loss %.3f", len(vocabulary), time.monotonic() - started, loss)
    return whole.eval()


def frequent_tokens(training_sets: Sequence[CachedTokens], *, least_captions: int) -> NDArray[np.int64]:
    """Ids of tokens that at least so many captions have, ascending.

    Those that all captions have, such as the marks around a text, tell nothing and are left out.
    """
    captions: Counter[int] = Counter()
    num_captions = 0
    for cached in training_sets:
        for text in range(len(cached.caption_ids)):
            captions.update(set(cached.ids_of(text).tolist()))
            num_captions += 1
    found = [token for token, count in captions.items() if least_captions <= count < num_captions]
    return np.array(sorted(found), dtype=np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class _Pictures:
    """What the network learns from, picture by picture."""

    features: Tensor  # (pictures, views, features), not standardised
    shares: Tensor  # (pictures, vocabulary): of the picture's captions, how many have the word
    chances: NDArray[np.float64]  # (pictures,), of being drawn next: those of a small data set more often, by the root of its size

    @classmethod
    def of(cls, model: FusionEncoder, training_sets: Sequence[CachedTokens], vocabulary: NDArray[np.int64]) -> "_Pictures":
        features, shares, chances = [], [], []
        for number, cached in enumerate(training_sets):
            places = captioned_places([cached])[:, 1]
            rows = places[:, np.newaxis] * cached.num_views + np.arange(cached.num_views)  # (pictures, views)
            features.append(_features(model, cached, rows.reshape(-1)).reshape(*rows.shape, -1))
            shares.append(np.stack([_word_shares(cached, int(picture), vocabulary) for picture in places]))
            chances.append(np.full(len(places), len(places) ** -0.5))
            logger.debug("likelihood: data set %d has %d pictures", number, len(places))
        views = min(each.shape[1] for each in features)
        chance = np.concatenate(chances)
        return cls(torch.cat([each[:, :views] for each in features]), torch.from_numpy(np.concatenate(shares)), chance / chance.sum())


@torch.no_grad()
def _features(model: FusionEncoder, cached: CachedTokens, rows: NDArray[np.int64]) -> Tensor:
    likelihood = model.likelihood
    assert likelihood is not None
    blocks = np.array_split(rows, len(rows) // _ROWS_AT_ONCE + 1)
    return torch.cat([likelihood.features(cached.stored_rows(model, block)) for block in blocks])


def _word_shares(cached: CachedTokens, picture: int, vocabulary: NDArray[np.int64]) -> NDArray[np.float32]:
    shares = np.zeros(len(vocabulary), dtype=np.float32)
    texts = cached.texts_of(picture)
    for text in texts.tolist():
        ids = np.unique(cached.ids_of(text))
        places = np.searchsorted(vocabulary, ids)
        is_known = vocabulary[np.minimum(places, len(vocabulary) - 1)] == ids
        shares[places[is_known]] += np.float32(1 / len(texts))
    return shares


def _fit(likelihood: WordLikelihood, pictures: _Pictures, options: FusionFitOptions) -> float:
    """Binary cross-entropy over all words of the vocabulary; the averaged weights stay. Gives the last loss a picture."""
    device = likelihood.feature_mean.device
    parameters = list(likelihood.parameters())
    optimizer = torch.optim.AdamW(parameters, options.likelihood_learning_rate, weight_decay=options.likelihood_weight_decay)
    average = {name: tensor.detach().clone() for name, tensor in likelihood.state_dict().items()}
    generator = np.random.default_rng([options.seed, 21])
    size = min(options.likelihood_batch_size, len(pictures.shares))
    num_steps = options.likelihood_epochs * (len(pictures.shares) // size)
    torch.manual_seed(options.seed)
    last = float("nan")
    for step, (rows, views) in enumerate(_batches(pictures, size=size, num_epochs=options.likelihood_epochs, generator=generator)):
        for group in optimizer.param_groups:
            group["lr"] = options.likelihood_learning_rate * cosine_cycle(step, num_steps)
        features = (pictures.features[rows, views].to(device) - likelihood.feature_mean) / likelihood.feature_std
        hidden = functional.gelu(likelihood.hidden(functional.dropout(features, options.token_dropout)))
        logits = likelihood.out(functional.dropout(hidden, options.likelihood_dropout))
        targets = pictures.shares[rows].to(device)
        loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        check_finite(loss.detach(), loss.detach(), step=step + 1)
        optimizer.step()
        with torch.no_grad():
            for name, tensor in likelihood.state_dict().items():
                if tensor.is_floating_point():
                    average[name].lerp_(tensor, 1 - options.average_decay)
        last = float(loss.detach())
    likelihood.load_state_dict(average)
    return last


def _batches(pictures: _Pictures, *, size: int, num_epochs: int, generator: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of pictures and a view of each; as many steps an epoch as there are whole batches, and no picture twice in a batch."""
    num_pictures, num_views, _ = pictures.features.shape
    for _ in range(num_epochs):
        for _ in range(num_pictures // size):
            rows = generator.choice(num_pictures, size=size, replace=False, p=pictures.chances)
            yield torch.from_numpy(rows), torch.from_numpy(generator.integers(num_views, size=size))
