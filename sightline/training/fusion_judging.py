"""Validation pictures asked: the first stage's candidates with their match logits and with what may be taken off these."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.encoders.fusion_encoder import FusionEncoder, Priors, Words
from sightline.encoders.matcher import evidence, length_factors
from sightline.encoders.tokens import TokenEncoder
from sightline.training.autocast import training_autocast
from sightline.training.fusion_calibration import JudgedCandidates
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.pairs import CaptionedPicture, check_measurable
from sightline.training.token_cache import CachedTokens
from sightline.types import Modality

FACTORS = (10.0, 20.0, 30.0, 50.0)
"""Sharpness of a prior's mean: alignments lie in [-1, 1], most of them within 0.3 of each other."""

_IMAGES_AT_ONCE = 32  # against a bank of thousands of words
_TEXTS_AT_ONCE = 64  # against a bank of pictures


@dataclass(frozen=True, slots=True)
class SecondSimilarities:
    """Of the candidates in the second space, (queries, depth) each, of weight and strength 1; zeros without one."""

    cosines: NDArray[np.float32]
    image_priors: NDArray[np.float32]
    text_priors: NDArray[np.float32]

    def less_priors(self, *, of_images: float, of_texts: float) -> NDArray[np.float32]:
        """The cosines less so much of either prior."""
        return np.asarray(self.cosines - of_images * self.image_priors - of_texts * self.text_priors, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Judged:
    """The candidates of one validation source's queries in one direction, with what may be taken off their match logits."""

    direction: str
    candidates: JudgedCandidates
    image_priors: NDArray[np.float32]  # (factors, queries, depth), in units of the match logit, of strength 1
    text_priors: NDArray[np.float32]  # likewise
    likelihoods: NDArray[np.float32]  # (queries, depth), of the texts' words given the pictures, of weight 1; zeros without any
    second: "SecondSimilarities"
    num_tokens: NDArray[np.int64] | None = None  # (queries, depth), where the candidates are texts

    def with_length_exponent(self, exponent: float) -> "Judged":
        """As a combination with that exponent orders them."""
        if self.num_tokens is None:
            return self
        return replace(self, candidates=replace(self.candidates, length_factors=length_factors(self.num_tokens, exponent=exponent)))


def judge(
    model: FusionEncoder,
    name: str,
    pictures: Sequence[CaptionedPicture],
    cached: CachedTokens,
    *,
    encoder: TokenEncoder,
    options: FusionFitOptions,
) -> list[Judged]:
    """The first stage's candidates of one validation source with their match logits: both ways for captions, one for class names."""
    readable = np.flatnonzero(cached.is_readable)
    check_measurable(name, [pictures[int(picture)] for picture in readable])
    classes = [pictures[int(picture)].class_name for picture in readable]
    embeddings = cached.image_embeddings[readable * cached.num_views]
    if all(each is not None for each in classes):
        first_text = {str(each): int(cached.texts_of(int(picture))[0]) for picture, each in zip(readable, classes, strict=True)}
        texts = np.array(list(first_text.values()))
        relevant = np.array(list(first_text))[:, np.newaxis] == np.array(classes)[np.newaxis]
        k = 10
    else:
        texts = np.flatnonzero(np.isin(cached.picture_by_text, readable))
        relevant = cached.picture_by_text[texts][:, np.newaxis] == readable[np.newaxis]
        k = 1
    similarities = cached.text_embeddings[texts] @ embeddings.T  # (texts, pictures)
    image_bias, text_bias = (
        _bias(encoder, Modality.IMAGE, embeddings),
        _bias(encoder, Modality.TEXT, cached.text_embeddings[texts]),
    )
    asker = _Asker(model, cached, texts=texts, rows=readable * cached.num_views, options=options)
    columns, logits = asker.from_texts(similarities - image_bias)
    image_priors, text_priors = asker.priors()  # (factors, pictures), (factors, texts)
    found = _judged_candidates(name, similarities - image_bias, relevant, columns, logits, k=k)
    num_tokens = np.minimum(cached.text_start[texts + 1] - cached.text_start[texts], options.max_words)  # (texts,)
    shares = evidence(num_tokens)
    found = replace(found, evidence=shares[:, np.newaxis])
    of_texts = np.broadcast_to(text_priors[:, :, np.newaxis], (len(FACTORS), *columns.shape))
    likelihoods, second = asker.likelihoods(), asker.second()  # (texts, pictures) each
    judged = [
        Judged(
            "text-to-image",
            found,
            image_priors[:, columns],
            of_texts,
            np.take_along_axis(likelihoods, columns, axis=1),
            SecondSimilarities(*(np.take_along_axis(each, columns, axis=1) for each in second)),
        )
    ]
    if k == 1:
        has_text = relevant.any(axis=0)
        values = (similarities - text_bias[:, np.newaxis]).T[has_text]
        columns, logits = asker.from_images(values, np.flatnonzero(has_text))
        found = replace(_judged_candidates(name, values, relevant.T[has_text], columns, logits, k=1), evidence=shares[columns])
        of_pictures = image_priors[:, has_text][:, :, np.newaxis]
        of_pictures = np.broadcast_to(of_pictures, (len(FACTORS), *columns.shape))
        likely = np.take_along_axis(likelihoods.T[has_text], columns, axis=1)
        of_second = SecondSimilarities(*(np.take_along_axis(each.T[has_text], columns, axis=1) for each in second))
        judged.append(Judged("image-to-text", found, of_pictures, text_priors[:, columns], likely, of_second, num_tokens[columns]))
    return judged


def _bias(encoder: TokenEncoder, modality: Modality, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    bank = encoder.query_banks.get(modality)
    return np.zeros(len(embeddings), dtype=np.float32) if bank is None else np.float32(bank.strength) * bank.biases(embeddings)


def _judged_candidates(
    name: str,
    values: NDArray[np.float32],
    relevant: NDArray[np.bool_],
    columns: NDArray[np.int64],
    logits: NDArray[np.float32],
    *,
    k: int,
) -> JudgedCandidates:
    return JudgedCandidates(
        name,
        np.take_along_axis(values, columns, axis=1),
        logits,
        np.take_along_axis(relevant, columns, axis=1),
        k=k,
    )


class _Asker:
    """Match logits of the first candidates."""

    def __init__(
        self, model: FusionEncoder, cached: CachedTokens, *, texts: NDArray[np.int64], rows: NDArray[np.int64], options: FusionFitOptions
    ) -> None:
        self._model, self._cached, self._texts, self._options = model, cached, texts, options
        self._device = next(model.parameters()).device
        with torch.inference_mode():
            blocks = np.array_split(rows, len(rows) // 256 + 1)
            self._patches = torch.cat([cached.stored_rows(model, block) for block in blocks])  # (pictures, rows, width)

    def from_texts(self, values: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For (texts, pictures) first-stage values: the best columns of each text and their logits, both (texts, depth)."""
        columns = _best(values, self._options.rerank_depth)
        logits = np.empty(columns.shape, dtype=np.float32)
        for row, chosen in enumerate(columns):
            logits[row] = self._logits(self._texts[[row]], chosen)[0]
        return columns, logits

    def from_images(self, values: NDArray[np.float32], pictures: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For (pictures, texts) first-stage values: the best columns of each picture and their logits, both (pictures, depth)."""
        columns = _best(values, self._options.rerank_depth)
        logits = np.empty(columns.shape, dtype=np.float32)
        for row, (picture, chosen) in enumerate(zip(pictures, columns, strict=True)):
            logits[row] = self._logits(self._texts[chosen], np.array([picture]))[:, 0]
        return columns, logits

    def priors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """For each of `FACTORS`, what strength 1 takes off the match logits: (factors, pictures) and (factors, texts)."""
        banks, alignment = self._model.banks, self._model.alignment
        factors = [torch.tensor(factor, device=self._device) for factor in FACTORS]
        scale = self._model.alignment_scale.exp()
        images: list[Tensor] = []
        texts: list[Tensor] = []
        with torch.inference_mode(), training_autocast(self._device):
            for start in range(0, len(self._patches), _IMAGES_AT_ONCE):
                patches = self._patches[start : start + _IMAGES_AT_ONCE]
                grids = self._model.grid_of(patches)
                images += [torch.stack([scale * banks.of_images(alignment, grids, factor=factor) for factor in factors])]
            for chosen in np.array_split(self._texts, len(self._texts) // _TEXTS_AT_ONCE + 1):
                words = self._words(chosen)
                normed = self._model.text_norm(words.hidden_states)
                texts.append(torch.stack([scale * banks.of_texts(alignment, normed, words.mask, factor=factor) for factor in factors]))
        return _joined(images), _joined(texts)

    def likelihoods(self) -> NDArray[np.float32]:
        """Of the words of every text given every picture, of weight 1: (texts, pictures), zeros where the encoder has none."""
        likelihood = self._model.likelihood
        if likelihood is None:
            return np.zeros((len(self._texts), len(self._patches)), dtype=np.float32)
        found = []
        with torch.inference_mode():
            bank = self._model.bank_readings().likelihood_states
            assert bank is not None
            for chosen in np.array_split(self._texts, len(self._texts) // _TEXTS_AT_ONCE + 1):
                token_ids = self._words(chosen).token_ids
                assert token_ids is not None
                found.append(likelihood(token_ids, self._patches, bank))
        return np.asarray(torch.cat(found).cpu().numpy())

    def second(self) -> list[NDArray[np.float32]]:
        """Cosines and priors of pictures and of texts in the second space: three of (texts, pictures), zeros where there is none."""
        shape = (len(self._texts), len(self._patches))
        space = self._model.second
        if space is None:
            return [np.zeros(shape, dtype=np.float32)] * 3
        with torch.inference_mode():
            images = space.embeddings_in(self._model.whole_of(self._patches))
            bank = self._model.bank_readings().second_embeddings
            assert bank is not None
            blocks = [self._words(chosen) for chosen in np.array_split(self._texts, len(self._texts) // _TEXTS_AT_ONCE + 1)]
            texts = torch.cat([space.embed_texts(words.hidden_states, words.mask) for words in blocks])
            found = (texts @ images.T, space.image_priors(images), space.text_priors(texts, bank)[:, None])
        return [np.broadcast_to(each.float().cpu().numpy(), shape) for each in found]

    def _words(self, texts: NDArray[np.int64]) -> Words:
        words = self._cached.words(texts, max_words=self._options.max_words)
        token_ids = None if words.token_ids is None else words.token_ids.to(self._device)
        return Words(words.hidden_states.to(self._device), words.mask.to(self._device), token_ids)

    def _logits(self, texts: NDArray[np.int64], pictures: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode(), training_autocast(self._device):
            words, patches = self._words(texts), self._patches[torch.from_numpy(pictures)]
            nothing = Priors(torch.zeros(len(pictures), device=self._device), torch.zeros(len(texts), device=self._device))
            logits = self._model(words, patches, priors=nothing)
        return np.asarray(logits.float().cpu().numpy())


def _joined(blocks: list[Tensor]) -> NDArray[np.float32]:
    return np.asarray(torch.cat(blocks, dim=1).float().cpu().numpy())


def _best(values: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    return np.argsort(-values, axis=1, kind="stable")[:, :depth]
