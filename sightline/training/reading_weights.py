"""What each reading of a fusion encoder counts in the match logit, fitted on validation pictures.

One weight after the other is set to what puts most right answers first while the others stay, until none moves any more: all
combinations would be hundreds of rankings of every validation source. As everywhere, nothing that lowers a source.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sightline.encoders.fusion_encoder import FusionEncoder
from sightline.training.fusion_calibration import WEIGHTS, fit_weight, mean_quality
from sightline.training.fusion_judging import Judged

LIKELIHOOD_WEIGHTS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0)
"""Of a mean log ratio, which is of some units."""

SECOND_WEIGHTS = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0)
"""Of a cosine, most of which lie within 0.3 of each other."""

SECOND_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

LENGTH_EXPONENTS = (0.0, -0.1, -0.2, -0.3, -0.4, -0.5, -0.6)
"""A sum over independent words spreads by the root of their number: -0.5 takes that back, 0 leaves it."""

_MAX_ROUNDS = 3
_DIRECTIONS = ("text-to-image", "image-to-text")


@dataclass(frozen=True, slots=True)
class ReadingWeights:
    """Of the readings beside alignment, whose own is its learnt scale."""

    likelihood: float = LIKELIHOOD_WEIGHTS[0]
    second: float = SECOND_WEIGHTS[0]
    second_images: float = SECOND_STRENGTHS[2]  # share of the pictures' priors that is taken off in the second space
    second_texts: float = SECOND_STRENGTHS[2]

    def on(self, judged: Sequence[Judged]) -> list[Judged]:
        """The same candidates with these weights in their match logits."""
        return [_weighted(each, self) for each in judged]


def fit_length_exponent(judged: Sequence[Judged]) -> float:
    """What puts most right texts first, each exponent at the weight that would be taken; 0 where no texts are candidates."""
    of_texts = [each for each in judged if each.num_tokens is not None]
    if not of_texts:
        return LENGTH_EXPONENTS[0]
    qualities = []
    for exponent in LENGTH_EXPONENTS:
        sources = [each.with_length_exponent(exponent).candidates for each in of_texts]
        weight = fit_weight(sources)
        qualities.append(mean_quality([(source, weight) for source in sources]))
    return LENGTH_EXPONENTS[int(np.argmax(qualities))]


def fit_reading_weights(model: FusionEncoder, judged: Sequence[Judged]) -> list[Judged]:
    """Sets the weights of the model's readings and gives the candidates with match logits in which they count."""
    choices: dict[str, Sequence[float]] = {}
    if model.second is not None:
        choices |= {"second": SECOND_WEIGHTS, "second_images": SECOND_STRENGTHS, "second_texts": SECOND_STRENGTHS}
    if model.likelihood is not None:
        choices["likelihood"] = LIKELIHOOD_WEIGHTS
    weights = _climbed(judged, choices)
    with torch.no_grad():
        if model.likelihood is not None:
            model.likelihood.weight.fill_(weights.likelihood)
        if model.second is not None:
            model.second.weight.fill_(weights.second)
            model.second.strengths.copy_(torch.tensor([weights.second_images, weights.second_texts]))
    return weights.on(judged)


def _climbed(judged: Sequence[Judged], choices: dict[str, Sequence[float]]) -> ReadingWeights:
    weights = ReadingWeights()
    best = _quality(weights.on(judged))
    for _ in range(_MAX_ROUNDS):
        before = weights
        for name, values in choices.items():
            for value in values:
                tried = dataclasses.replace(weights, **{name: value})
                if tried == weights:
                    continue
                quality = _quality(tried.on(judged))
                if quality > best:
                    best, weights = quality, tried
        if weights == before:
            break
    return weights


def _quality(judged: Sequence[Judged]) -> float:
    """The mean over sources and directions, each direction at the weight that would be taken."""
    by_direction = [[each.candidates for each in judged if each.direction == direction] for direction in _DIRECTIONS]
    weights = [fit_weight(sources, weights=WEIGHTS[::2]) if sources else 0.0 for sources in by_direction]
    return mean_quality([(each, weight) for sources, weight in zip(by_direction, weights, strict=True) for each in sources])


def _weighted(each: Judged, weights: ReadingWeights) -> Judged:
    logits = each.candidates.logits + np.float32(weights.likelihood) * each.likelihoods
    if weights.second:
        second = each.second.less_priors(of_images=weights.second_images, of_texts=weights.second_texts)
        logits = logits + np.float32(weights.second) * second
    return replace(each, candidates=replace(each.candidates, logits=np.asarray(logits, dtype=np.float32)))
