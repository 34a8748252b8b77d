"""The picture as a whole, as a second image backbone saw it, beside its patches: a shared space of its own, for the second look alone.

The backbone (see `second_backbone`) runs when a picture is indexed. What is kept of its features are the rows that follow the patches,
each as wide as one and stored as they are:

- *components*: the principal components of the features, for who wants to read more off them (the likelihood of words does);
- *embedding*: where two layers put the picture in the second space, of unit length.

A text is put there from the mean of its words' hidden states. What the second space adds to a match logit is

    weight * (cos(text, picture) - priors)

with priors as those of alignment: the log-mean-exp of a picture's similarities to a bank of texts, and of a text's to a bank of pictures,
as far as validation says (QB-Norm, Bogolin et al. 2022).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.dual_encoder import Projection

IMAGE_FACTOR = 20.0
TEXT_FACTOR = 10.0
"""Sharpness of the mean over a bank of texts and over one of pictures: those that served the first stage's biases (docs/training.md)."""


class SecondSpace(nn.Module):
    """Features of pictures, and hidden states of texts, in a space of their own."""

    feature_mean: Tensor
    feature_std: Tensor
    bank_texts: Tensor
    strengths: Tensor
    weight: Tensor

    def __init__(
        self,
        *,
        feature_dim: int,
        text_width: int,
        width: int,
        component_rows: int,
        embedding_rows: int,
        hidden_dim: int,
        num_bank_texts: int,
    ) -> None:
        super().__init__()
        self._width = width
        self._component_rows = component_rows
        component_dim, embedding_dim = component_rows * width, embedding_rows * width
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_std", torch.ones(feature_dim))
        self.components = nn.Linear(feature_dim, component_dim, bias=False)
        self.image = Projection(component_dim, hidden_dim=hidden_dim, out_dim=embedding_dim)
        self.text = Projection(text_width, hidden_dim=hidden_dim, out_dim=embedding_dim)
        self.register_buffer("bank_texts", torch.zeros(num_bank_texts, embedding_dim))  # of unit length
        self.register_buffer("strengths", torch.zeros(2))  # share of the priors of pictures and of texts that is taken off
        self.register_buffer("weight", torch.zeros(()))  # in the match logit

    def components_of(self, features: Tensor) -> Tensor:
        """Features (images, feature_dim) -> their principal components (images, component_dim)."""
        found: Tensor = self.components((features.float() - self.feature_mean) / self.feature_std)
        return found

    def embed_images(self, components: Tensor) -> Tensor:
        """(images, component_dim) -> (images, embedding_dim), unit length."""
        return functional.normalize(self.image(components), dim=-1)

    def embed_texts(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (texts, words, text_width) and mask (texts, words) -> (texts, embedding_dim), unit length."""
        shares = mask.float() / mask.float().sum(dim=1, keepdim=True).clamp_min(1)  # (texts, words)
        means = torch.einsum("tw,twd->td", shares, hidden_states.float())
        return functional.normalize(self.text(means), dim=-1)

    def rows_of(self, features: Tensor) -> Tensor:
        """What is stored of features (images, feature_dim): (images, rows, width), the components' rows first."""
        components = self.components_of(features)
        rows = torch.cat([components, self.embed_images(components)], dim=1)
        return rows.view(len(rows), -1, self._width)

    def components_in(self, rows: Tensor) -> Tensor:
        """Of stored rows (images, rows, width): (images, component_dim)."""
        return rows[:, : self._component_rows].flatten(1)

    def embeddings_in(self, rows: Tensor) -> Tensor:
        """Of stored rows (images, rows, width): (images, embedding_dim), of unit length whatever rounding did."""
        return functional.normalize(rows[:, self._component_rows :].flatten(1).float(), dim=-1)

    def image_priors(self, embeddings: Tensor) -> Tensor:
        """Of strength 1, of (images, embedding_dim): (images,); zeros without a bank."""
        return _log_mean_exp(embeddings @ self.bank_texts.T, IMAGE_FACTOR)

    def text_priors(self, embeddings: Tensor, bank_images: Tensor) -> Tensor:
        """Of strength 1, of (texts, embedding_dim) against (bank images, embedding_dim): (texts,); zeros without a bank."""
        return _log_mean_exp(embeddings @ bank_images.T, TEXT_FACTOR)

    def similarities(self, hidden_states: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Texts and stored rows of pictures -> cosines in the second space, (texts, images), in float32."""
        with torch.autocast(rows.device.type, enabled=False):  # a hundredth of a cosine moves the order
            return self.embed_texts(hidden_states, mask) @ self.embeddings_in(rows).T

    def similarities_each(self, hidden_states: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Texts and the rows of pictures of each text's own, (texts, images, rows, width) -> (texts, images), in float32."""
        texts, images = rows.shape[:2]
        with torch.autocast(rows.device.type, enabled=False):
            embeddings = self.embeddings_in(rows.flatten(0, 1)).view(texts, images, -1)
            return torch.einsum("td,tid->ti", self.embed_texts(hidden_states, mask), embeddings)


def _log_mean_exp(similarities: Tensor, factor: float) -> Tensor:
    """Over the last dimension; zeros where that is empty."""
    if not similarities.shape[-1]:
        return similarities.new_zeros(len(similarities))
    return ((similarities.float() * factor).logsumexp(dim=-1) - math.log(similarities.shape[-1])) / factor
