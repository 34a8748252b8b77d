"""A classifier's own knowledge, carried into the shared space: names for what captions never mention.

A network trained on captions of people and dogs finds nothing for "butterfly", though the ImageNet backbone it started from knows
butterflies. The thousand class names with their synonyms go through the text encoder under varied templates; the classifier's soft
labels of every picture are matched by a softmax over the picture's similarities to the names. Classes that no picture at hand shows are
taught by features made up in the kept branch's feature space: a real pooled feature,
pushed along the class's row of the classifier's weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sightline.training.backbones import Classifier

TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "{}s",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a photo of the {}",
    "a picture of a {}",
    "a close-up of a {}",
    "some {}s",
    "two {}s",
    "a small {}",
    "a large {}",
    "a drawing of a {}",
    "a {} outdoors",
    "there is a {} in the picture",
)
"""The bare name weighs three times: it is what people type."""

MIN_PUSH, MAX_PUSH = 4.0, 18.0
"""How far along the unit class vector a feature is pushed: from a hint of the class to more than a typical photograph of it."""


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Synonyms of each class, lower case except proper names, in the classifier's order."""

    synonyms_by_class: tuple[tuple[str, ...], ...]

    def draw(self, classes: Sequence[int], *, generator: np.random.Generator) -> list[str]:
        """One text for each class: a random synonym in a random template."""
        texts: list[str] = []
        for number in classes:
            synonyms = self.synonyms_by_class[number]
            # The first synonym is the common one; the Latin name comes last.
            place = min(int(generator.exponential(1.2)), len(synonyms) - 1)
            texts.append(TEMPLATES[int(generator.integers(len(TEMPLATES)))].format(synonyms[place]))
        return texts


def imagenet_class_names() -> ClassNames:
    """The 1,000 classes of ImageNet-1k with their synonyms, from timm's tables."""
    from timm.data.imagenet_info import ImageNetInfo

    table = ImageNetInfo()
    rows = (table.index_to_description(number) for number in range(1000))
    return ClassNames(tuple(tuple(name.strip() for name in row.split(",")) for row in rows))


def class_probabilities(pooled: Tensor, classifier: Classifier) -> Tensor:
    """Soft labels of pooled features (batch, image_width): (batch, classes), in float32 also under autocast."""
    with torch.autocast(pooled.device.type, enabled=False):
        return functional.linear(pooled.float(), classifier.weight, classifier.bias).softmax(dim=-1)


def push_towards_classes(pooled: Tensor, classes: Tensor, classifier: Classifier, *, generator: torch.Generator) -> Tensor:
    """Features made up from real ones: each pushed along its class's weight vector, clipped at zero as a ReLU's output is.

    Args:
        pooled: real pooled features (batch, image_width).
        classes: (batch,) the class that each is to show.
    """
    centred = classifier.weight - classifier.weight.mean(dim=0)  # (classes, image_width)
    directions = functional.normalize(centred[classes], dim=-1)  # (batch, image_width)
    lengths = MIN_PUSH + (MAX_PUSH - MIN_PUSH) * torch.rand(len(classes), 1, generator=generator)
    return (pooled.float() + lengths.to(pooled.device) * directions).clamp_min(0)
