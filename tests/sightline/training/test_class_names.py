"""Names drawn for classes, and features made up for what no picture shows."""

from collections import Counter

import numpy as np
import torch
from torch.nn import functional

from sightline.training.backbones import Classifier
from sightline.training.class_names import (
    MAX_PUSH,
    MIN_PUSH,
    TEMPLATES,
    ClassNames,
    class_probabilities,
    imagenet_class_names,
    push_towards_classes,
)

NAMES = ClassNames((("butterfly", "Danaus"), ("grand piano",), ("cup", "mug", "Cuppa")))


def test_one_text_a_class_in_the_order_asked_for() -> None:
    texts = NAMES.draw([2, 0, 1, 1], generator=np.random.default_rng(0))

    assert len(texts) == 4
    assert any(name in texts[0] for name in NAMES.synonyms_by_class[2])
    assert any(name in texts[1] for name in NAMES.synonyms_by_class[0])
    assert all("grand piano" in text for text in texts[2:])


def test_the_seed_decides_and_the_bare_common_name_comes_most_often() -> None:
    draws = [NAMES.draw([0], generator=np.random.default_rng([7, seed]))[0] for seed in range(600)]

    assert draws == [NAMES.draw([0], generator=np.random.default_rng([7, seed]))[0] for seed in range(600)]
    counts = Counter(draws)
    assert counts.most_common(1)[0][0] == "butterfly"
    assert any("Danaus" in text for text in counts)
    assert TEMPLATES.count("{}") == 3


def test_imagenets_thousand_classes_in_the_classifiers_order() -> None:
    names = imagenet_class_names().synonyms_by_class

    assert len(names) == 1000
    assert all(synonym and synonym == synonym.strip() for synonyms in names for synonym in synonyms)
    assert names[0][0] == "tench"
    assert "monarch" in names[323][0]
    assert names[999][0] == "toilet tissue"


def _classifier() -> Classifier:
    generator = torch.Generator().manual_seed(0)
    return Classifier(torch.randn(5, 12, generator=generator), torch.randn(5, generator=generator))


def test_class_probabilities_are_the_classifiers_softmax() -> None:
    classifier, pooled = _classifier(), torch.rand(3, 12, generator=torch.Generator().manual_seed(1))

    found = class_probabilities(pooled.half(), classifier)

    expected = (pooled.half().float() @ classifier.weight.T + classifier.bias).softmax(dim=1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3))


def test_a_push_goes_along_the_class_by_a_length_within_bounds_and_stays_above_zero() -> None:
    classifier, classes = _classifier(), torch.tensor([0, 1, 2, 3, 4, 0])
    pooled = torch.full((6, 12), 100.0)  # far from zero, so that nothing is clipped

    moved = push_towards_classes(pooled, classes, classifier, generator=torch.Generator().manual_seed(2)) - pooled

    centred = classifier.weight - classifier.weight.mean(dim=0)
    torch.testing.assert_close(functional.normalize(moved, dim=1), functional.normalize(centred[classes], dim=1), atol=1e-4, rtol=1e-4)
    lengths = moved.norm(dim=1)
    assert bool(((lengths >= MIN_PUSH - 1e-3) & (lengths <= MAX_PUSH + 1e-3)).all())
    clipped = push_towards_classes(torch.zeros(6, 12), classes, classifier, generator=torch.Generator().manual_seed(2))
    assert bool((clipped >= 0).all())


def test_a_made_up_feature_shows_its_class_to_the_classifier() -> None:
    classifier, classes = _classifier(), torch.arange(5)
    pooled = torch.rand(5, 12, generator=torch.Generator().manual_seed(3))

    before = class_probabilities(pooled, classifier)[classes, classes]
    made_up = push_towards_classes(pooled, classes, classifier, generator=torch.Generator().manual_seed(4))

    assert bool((class_probabilities(made_up, classifier)[classes, classes] > before).all())
    again = push_towards_classes(pooled, classes, classifier, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(made_up, again, atol=0, rtol=0)
