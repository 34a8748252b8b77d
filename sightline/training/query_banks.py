"""The banks of queries that a trained encoder carries, made of what it was trained with and fitted on validation pictures.

The bank for pictures holds training captions and, where class names were learnt, those too: a bank of captions alone takes about
a point of precision from one-word queries (50 class names, strengths of 0.5 to 1). The bank for texts holds
training pictures. Both are compressed to centroids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.encoders.query_bank import STRENGTHS, QueryBank, compressed_bank
from sightline.metrics import best_relevant_ranks, class_precision
from sightline.types import Embeddings, Modality

FACTORS = (10.0, 20.0, 30.0)
NUM_TEXT_CENTROIDS = 1024
NUM_PICTURE_CENTROIDS = 640
"""1 kB each at 512 dimensions, so that sightline-mini stays below 56 MB with its banks. With 768 of texts the fit took another
strength (1 instead of 0.75): one-word queries gained 1.2 points of precision@10 and captions lost 1.9 of hit rate@1. Which of the two did
it was not taken apart."""

SHARE_OF_NAMES = 0.35
"""What class names weigh in the bank for pictures. With 0.2 to 0.5 captions and one-word queries both gain; the optimum is flat."""


@dataclass(frozen=True, slots=True)
class BankQueries:
    """What stands for the queries that will be asked; embeddings (queries, embedding_dim)."""

    captions: Embeddings
    pictures: Embeddings
    names: Embeddings | None = None  # class names, as people type them


@dataclass(frozen=True, slots=True)
class EmbeddedValidation:
    """One validation source: captions or class names, and pictures."""

    texts: Embeddings
    pictures: Embeddings
    is_relevant: NDArray[np.bool_]  # (texts, pictures)
    is_class_labelled: bool  # many pictures are right for a text: measured by precision@10

    def quality(self, values: NDArray[np.float32]) -> tuple[float, float]:
        """(what must not fall, what is to rise) of an order of pictures by (texts, pictures), in percent."""
        if self.is_class_labelled:
            classes = [str(number) for number in range(len(self.texts))]
            by_picture = [classes[number] for number in self.is_relevant.argmax(axis=0)]
            precision = class_precision(values, by_picture, classes).precision_at_10
            return precision, precision
        return _caption_quality(values, self.is_relevant)


def fitted_banks(queries: BankQueries, validation: Sequence[EmbeddedValidation]) -> dict[Modality, QueryBank]:
    """A bank for each modality of items, its factor and strength fitted; without one where none helps, or nothing was validated."""
    banks = {
        Modality.IMAGE: _fitted(list(_banks_of_texts(queries)), [_text_to_image(source) for source in validation]),
        Modality.TEXT: _fitted(
            list(_banks_of_pictures(queries)), [_image_to_text(source) for source in validation if not source.is_class_labelled]
        ),
    }
    return {modality: bank for modality, bank in banks.items() if bank is not None}


@dataclass(frozen=True, slots=True)
class _Trial:
    """A validation source in one direction: how good it is with a bank, at each strength."""

    source: EmbeddedValidation
    is_to_image: bool

    def qualities(self, bank: QueryBank | None) -> list[tuple[float, float]]:
        """Without a bank one, with one as many as there are strengths."""
        source = self.source
        similarities = np.asarray(source.texts @ source.pictures.T, dtype=np.float32)
        if self.is_to_image:
            strengths = [0.0] if bank is None else STRENGTHS
            biases = 0.0 if bank is None else bank.biases(source.pictures)
            return [source.quality(np.asarray(similarities - strength * biases, dtype=np.float32)) for strength in strengths]
        has_text = source.is_relevant.any(axis=0)
        strengths = [0.0] if bank is None else STRENGTHS
        biases = 0.0 if bank is None else bank.biases(source.texts)[:, np.newaxis]
        relevant = source.is_relevant.T[has_text]
        return [_caption_quality((similarities - strength * biases).T[has_text].astype(np.float32), relevant) for strength in strengths]


def _text_to_image(source: EmbeddedValidation) -> _Trial:
    return _Trial(source, is_to_image=True)


def _image_to_text(source: EmbeddedValidation) -> _Trial:
    return _Trial(source, is_to_image=False)


def _fitted(banks: Sequence[QueryBank], trials: Sequence[_Trial]) -> QueryBank | None:
    """The bank and strength of the highest mean quality among those that lower no source's; None where none raises it."""
    if not trials:
        return None
    first = np.array([trial.qualities(None)[0] for trial in trials])  # (sources, 2)
    best, best_rise = None, 0.0
    for bank in banks:
        qualities = np.array([trial.qualities(bank) for trial in trials])  # (sources, strengths, 2)
        is_allowed = (qualities[:, :, 0] >= first[:, :1]).all(axis=0)
        rises = np.where(is_allowed, (qualities[:, :, 1] - first[:, 1:]).mean(axis=0), -np.inf)  # (strengths,)
        if rises.max() > best_rise:
            best, best_rise = bank.with_strength(STRENGTHS[int(rises.argmax())]), float(rises.max())
    return best


def _banks_of_texts(queries: BankQueries) -> Iterator[QueryBank]:
    captions = compressed_bank(queries.captions, num_centroids=NUM_TEXT_CENTROIDS, factor=FACTORS[0], strength=0.0)
    names = None
    if queries.names is not None:
        names = compressed_bank(queries.names, num_centroids=NUM_TEXT_CENTROIDS // 2, factor=FACTORS[0], strength=0.0)
    for factor in FACTORS:
        yield _mixed(captions, names, factor=factor)


def _banks_of_pictures(queries: BankQueries) -> Iterator[QueryBank]:
    pictures = compressed_bank(queries.pictures, num_centroids=NUM_PICTURE_CENTROIDS, factor=FACTORS[0], strength=0.0)
    for factor in FACTORS:
        yield _mixed(pictures, None, factor=factor)


def _mixed(bank: QueryBank, names: QueryBank | None, *, factor: float) -> QueryBank:
    if names is None:
        return QueryBank(bank.embeddings, bank.weights, factor=factor, strength=0.0)
    weights = np.concatenate([(1 - SHARE_OF_NAMES) * bank.weights, SHARE_OF_NAMES * names.weights]).astype(np.float32)
    return QueryBank(np.concatenate([bank.embeddings, names.embeddings]), weights, factor=factor, strength=0.0)


def _caption_quality(values: NDArray[np.float32], is_relevant: NDArray[np.bool_]) -> tuple[float, float]:
    """Hit rate@1 and mean reciprocal rank."""
    ranks = best_relevant_ranks(values, is_relevant)
    return 100 * float(np.mean(ranks == 1)), 100 * float(np.mean(1 / ranks))


def strengths_told(banks: Mapping[Modality, QueryBank]) -> str:
    """For a person: what is taken off, and how sharply."""
    if not banks:
        return "no hubness bias: none helped on the validation pictures"
    told = [f"{modality}s: strength {bank.strength:g}, factor {bank.factor:g}" for modality, bank in banks.items()]
    return f"hubness bias of {'; '.join(told)}"
