"""Banks of texts and pictures for a fusion encoder's priors: drawn from training, applied as far as validation pictures say.

Captions alone would call a picture popular that one-word queries rarely find, so a third of the texts are class names, as in the banks of
the first stage (see `query_banks`).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sightline.encoders.fusion_encoder import FusionEncoder
from sightline.encoders.tokens import TokenEncoder
from sightline.training.class_names import imagenet_class_names
from sightline.training.fusion_calibration import WEIGHTS, fit_weight, mean_quality
from sightline.training.fusion_judging import FACTORS, Judged
from sightline.training.token_cache import CachedTokens

BANK_TEXTS = 320
BANK_IMAGES = 128
"""With some ten words a text and 49 patches a picture: 2.5 MB in 8 bits."""

NAME_SHARE = 0.35
STRENGTHS = (0.0, 0.5, 0.75, 1.0)
_DIRECTIONS = ("text-to-image", "image-to-text")
MAX_BANK_WORDS = 32  # of one text


def bank_texts(training_sets: Sequence[CachedTokens], encoder: TokenEncoder, *, seed: int) -> list[NDArray[np.float32]]:
    """Hidden states (words, text_width) of captions drawn from all training sets, and of class names."""
    generator = np.random.default_rng([seed, 11])
    num_names = round(NAME_SHARE * BANK_TEXTS)
    texts = []
    for number, text in drawn_alike([len(cached.caption_ids) for cached in training_sets], BANK_TEXTS - num_names, generator=generator):
        hidden = training_sets[number].words([text], max_words=MAX_BANK_WORDS).hidden_states
        texts.append(np.asarray(hidden[0].numpy(), dtype=np.float32))
    synonyms = imagenet_class_names().synonyms_by_class
    names = [synonyms[int(number)][0] for number in np.sort(generator.permutation(len(synonyms))[:num_names])]
    _, tokens = encoder.embed_texts_with_tokens(names)
    return texts + [row[: min(int(length), MAX_BANK_WORDS)] for row, length in zip(tokens.hidden_states, tokens.num_tokens, strict=True)]


@dataclass(frozen=True, slots=True)
class BankImages:
    """Pictures of a bank as training has them."""

    tokens: NDArray[np.float32]  # (pictures, patches, components)
    features: NDArray[np.float32] | None  # (pictures, feature_dim), of the second backbone


def bank_images(training_sets: Sequence[CachedTokens], *, seed: int) -> BankImages:
    """Pictures drawn from all training sets, as they are and not cropped."""
    generator = np.random.default_rng([seed, 12])
    readable = [np.flatnonzero(cached.is_readable) for cached in training_sets]
    rows = [
        (training_sets[number], int(readable[number][place]))
        for number, place in drawn_alike([len(pictures) for pictures in readable], BANK_IMAGES, generator=generator)
    ]
    tokens = np.stack([cached.image_tokens[picture * cached.num_views].astype(np.float32) for cached, picture in rows])
    features = [cached.image_features[picture * cached.num_views] for cached, picture in rows if cached.image_features is not None]
    return BankImages(tokens, np.stack(features).astype(np.float32) if features else None)


def drawn_alike(sizes: Sequence[int], num_wanted: int, *, generator: np.random.Generator) -> list[tuple[int, int]]:
    """(set, place) of so many, from each set alike as far as it has them, in ascending order; fewer where all together hold fewer.

    A bank of mostly the largest set calls the subjects of the others rare.
    """
    shares = np.zeros(len(sizes), dtype=np.int64)
    while shares.sum() < min(num_wanted, sum(sizes)):
        open_sets = np.flatnonzero(shares < sizes)
        shares[open_sets[np.argmin(shares[open_sets])]] += 1
    return [
        (number, int(place))
        for number, (size, share) in enumerate(zip(sizes, shares.tolist(), strict=True))
        for place in np.sort(generator.permutation(size)[:share])
    ]


@torch.no_grad()
def with_banks(model: FusionEncoder, texts: Sequence[NDArray[np.float32]], images: BankImages) -> FusionEncoder:
    """The same encoder with banks of which nothing is taken off yet; `texts` (words, text_width) each."""
    device = next(model.parameters()).device
    words, weights = [], []
    for text in texts:
        hidden = model.text_norm(torch.from_numpy(text).to(device))[None]  # (1, words, text_width)
        words.append(functional.normalize(model.alignment.word(hidden), dim=-1)[0])
        weights.append(model.alignment.word_weights(hidden, torch.ones(1, len(text), dtype=torch.bool, device=device))[0])
    config = dataclasses.replace(
        model.config, num_bank_words=sum(map(len, words)), num_bank_texts=len(texts), num_bank_images=len(images.tokens)
    )
    text_by_word = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor([len(each) for each in words]))
    banks: dict[str, Tensor] = {
        "banks.words": torch.cat(words),
        "banks.word_weights": torch.cat(weights),
        "banks.text_by_word": text_by_word.float(),
        "banks.patches": model.project(
            torch.from_numpy(images.tokens).to(device), None if images.features is None else torch.from_numpy(images.features).to(device)
        ),
    }
    if model.second is not None:
        hidden_states = [torch.from_numpy(text).to(device)[None] for text in texts]  # (1, words, text_width) each
        embedded = [model.second.embed_texts(each, torch.ones(each.shape[:2], device=device)) for each in hidden_states]
        banks["second.bank_texts"] = torch.cat(embedded)
    banked = FusionEncoder(config).to(device).eval()
    banked.load_state_dict(model.state_dict() | banks)
    return banked


def fit_priors(model: FusionEncoder, judged: Sequence[Judged]) -> list[Judged]:
    """Sets the factors and strengths of the model's banks to what puts most right answers first, and gives the candidates less the priors.

    A prior of pictures is fitted where pictures are found and one of texts where texts are. As everywhere, nothing is taken off where it
    would lower a validation source.
    """
    factors, strengths = [FACTORS[0], FACTORS[0]], [0.0, 0.0]
    for place, direction in enumerate(_DIRECTIONS):
        sources = [each for each in judged if each.direction == direction]
        if sources:
            factors[place], strengths[place] = _fitted([_priors(each)[place] for each in sources], sources)
    with torch.no_grad():
        model.banks.factors.copy_(torch.tensor(factors))
        model.banks.strengths.copy_(torch.tensor(strengths))
    numbers = [FACTORS.index(factor) for factor in factors]
    less = []
    for each in judged:
        taken_off = sum(strength * priors[number] for strength, priors, number in zip(strengths, _priors(each), numbers, strict=True))
        logits = np.asarray(each.candidates.logits - taken_off, dtype=np.float32)
        less.append(replace(each, candidates=replace(each.candidates, logits=logits)))
    return less


def _priors(each: Judged) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return each.image_priors, each.text_priors


def _fitted(priors: Sequence[NDArray[np.float32]], sources: Sequence[Judged]) -> tuple[float, float]:
    """The factor and the strength with the best mean quality at the weight that would be taken with them; the first among equals."""
    best = (-np.inf, FACTORS[0], 0.0)
    for number, factor in enumerate(FACTORS):
        for strength in STRENGTHS:
            less = [
                replace(each.candidates, logits=(each.candidates.logits - np.float32(strength) * prior[number]).astype(np.float32))
                for each, prior in zip(sources, priors, strict=True)
            ]
            weight = fit_weight(less, weights=WEIGHTS[::4])
            quality = mean_quality([(each, weight) for each in less])
            if quality > best[0] + 1e-9:
                best = (quality, factor, strength)
    return best[1], best[2]
