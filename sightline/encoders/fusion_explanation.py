"""Which part of a picture answered which word: cross-attention times the gradient of the match logit.

Relevance of a patch for a word is its attention weight times how much the match logit would rise with that weight, where it would rise
at all, averaged over heads and summed over the layers and the alignment (Chefer et al. 2021, equation 5; ALBEF, Li et al. 2021). Where we
differ: relevance is not propagated through the layers' self-attention. A word's row tells what *that word's* looking did to the logit, by
whatever way it reached the first token, since the gradient has gone back along all of them. The likelihood of words and the second
space attend to nothing, and have no part in the maps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sightline.encoders.fusion_encoder import FusionEncoder, Words, gram


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one text with one picture."""

    logit: float
    relevance: NDArray[np.float32]  # (words, patches), non-negative, in units of the match logit; patches row by row of the grid
    grid: tuple[int, int]  # rows and columns

    def map_of(self, word: int) -> NDArray[np.float32]:
        """Relevance of each patch for one word: (rows, columns)."""
        return np.asarray(self.relevance[word]).reshape(self.grid)

    @property
    def overall(self) -> NDArray[np.float32]:
        """Relevance of each patch for the whole text: (rows, columns)."""
        return np.asarray(self.relevance.sum(axis=0), dtype=np.float32).reshape(self.grid)

    @property
    def word_shares(self) -> NDArray[np.float32]:
        """(words,) how much of all relevance is each word's; sums to 1, or is zero where nothing in the picture speaks for the text."""
        totals = self.relevance.sum(axis=1)
        return np.asarray(totals / totals.sum() if totals.sum() > 0 else totals, dtype=np.float32)


def explain(model: FusionEncoder, words: Words, patches: Tensor) -> Explanation:
    """Of one text, `words` (1, words, text_width) without padding, and one picture's patches (1, rows, width).

    Cost: one pass forward and one back, some three times what matching takes.
    """
    assert bool(words.mask.all())
    with torch.enable_grad():
        logit, attentions = _traced(model, words, patches)
        gradients = torch.autograd.grad(logit, attentions)
    parts = [_positive(attention * gradient) for attention, gradient in zip(attentions, gradients, strict=True)]
    relevance = torch.stack(parts).sum(dim=0)  # (words, patches)
    grid = (model.config.grid_height, model.config.grid_width)
    return Explanation(float(logit.detach()), relevance.detach().float().cpu().numpy(), grid)


def _positive(products: Tensor) -> Tensor:
    """(1, words, patches) of alignment, or (1, heads, words, patches) of a layer, whose heads are averaged -> (words, patches)."""
    positive = products.detach().float().clamp_min(0)[0]
    return positive if positive.ndim == 2 else positive.mean(dim=0)


def _traced(model: FusionEncoder, words: Words, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The match logit, and every attention of words to patches on its way there."""
    hidden, whole = model.text_norm(words.hidden_states), patches
    patches = model.grid_of(whole)
    attention, cosines = model.alignment.attend(functional.normalize(model.alignment.word(hidden), dim=-1), patches)  # (1, words, patches)
    attentions = [attention]
    aligned = model.alignment.aligned(attention, cosines, gram(patches))[0]  # (words,)
    weighted = (aligned.float() * model.alignment.word_weights(hidden, words.mask)[0]).sum()
    with torch.no_grad():  # the same wherever the words look
        prior = model.image_priors(whole)[0] + model.text_priors(words)[0]
        added = model.without_attention(words, whole)[0, 0]
    if not model.layers:
        return model.logits(weighted - prior, added), attentions
    tokens = model.layers[0].read_words(model.text_projection(hidden), words.mask)
    for number, (layer, memory) in enumerate(zip(model.layers, model.memories(patches), strict=True)):
        if number:
            tokens = layer.read_words(tokens, words.mask)
        tokens, probabilities = layer.read_patches_with_probabilities(tokens, memory)
        attentions.append(probabilities)
    return model.logits(weighted - prior, added + model.head_logits(tokens[:, 0])[0]), attentions
