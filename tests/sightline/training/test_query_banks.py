"""Banks of queries fitted to validation pictures, one of which is near everything."""

import numpy as np
import pytest

from sightline.encoders.query_bank import STRENGTHS
from sightline.training.query_banks import FACTORS, BankQueries, EmbeddedValidation, fitted_banks, strengths_told
from sightline.types import Embeddings, Modality

DIM, NUM_PICTURES = 24, 60


def unit(rows: np.ndarray) -> Embeddings:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def space(*, hubs: float, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """(texts, pictures) in pairs; texts share a direction, and so does every third picture, by so much."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal(DIM)
    own = generator.standard_normal((NUM_PICTURES, DIM))
    texts = own + 0.7 * common + 0.8 * generator.standard_normal((NUM_PICTURES, DIM))
    is_hub = (np.arange(NUM_PICTURES) % 3 == 0)[:, np.newaxis]
    return unit(texts), unit(own + hubs * is_hub * common)


def validation(texts: Embeddings, pictures: Embeddings) -> EmbeddedValidation:
    return EmbeddedValidation(texts, pictures, np.eye(NUM_PICTURES, dtype=np.bool_), is_class_labelled=False)


def test_a_bank_takes_hubs_down_and_says_how_much_of_it_helps() -> None:
    texts, pictures = space(hubs=2.0)
    source = validation(texts, pictures)

    banks = fitted_banks(BankQueries(texts, pictures), [source])

    bank = banks[Modality.IMAGE]
    assert bank.strength in STRENGTHS
    assert bank.factor in FACTORS
    similarities = texts @ pictures.T
    before, _ = source.quality(similarities)
    after, _ = source.quality(similarities - np.float32(bank.strength) * bank.biases(pictures))
    assert after >= before + 10
    assert "images: strength" in strengths_told(banks)


def test_no_bank_where_it_would_lower_another_source() -> None:
    texts, pictures = space(hubs=2.0)
    helped = validation(texts, pictures)
    bank = fitted_banks(BankQueries(texts, pictures), [helped])[Modality.IMAGE]
    # A text whose answer is a hub, just before a picture that is none: any bias turns the two round.
    hub, other = pictures[0], pictures[1]
    harmed = EmbeddedValidation(unit(hub + 0.999 * other)[np.newaxis], np.stack([hub, other]), np.array([[True, False]]), False)
    values = harmed.texts @ harmed.pictures.T
    assert harmed.quality(values)[0] == 100
    assert harmed.quality(values - min(STRENGTHS) * bank.biases(harmed.pictures))[0] == 0

    assert Modality.IMAGE not in fitted_banks(BankQueries(texts, pictures), [helped, harmed])


def test_names_are_part_of_the_bank_for_pictures() -> None:
    texts, pictures = space(hubs=2.0)
    with_names = fitted_banks(BankQueries(texts, pictures, names=texts[:7]), [validation(texts, pictures)])[Modality.IMAGE]
    assert len(with_names.weights) == NUM_PICTURES + 7
    assert with_names.weights[-7:].sum() == pytest.approx(0.35, abs=1e-3)


def test_nothing_measured_is_nothing_taken_off() -> None:
    assert fitted_banks(BankQueries(*space(hubs=2.0)), []) == {}
    assert "none helped" in strengths_told({})
