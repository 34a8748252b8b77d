"""Pairs of the steps before as further negatives of a contrastive loss (MoCo, He et al. 2020; ALBEF, Li et al. 2021).

A batch gives each text as many negatives as it has other pictures, and is bounded by what a step may cost forwards and backwards. A queue
of earlier pairs gives more at the cost of a pass forwards. Elsewhere it holds keys that a momentum encoder made at the step they are of,
and that grow stale. Here the encoder below is frozen and its tokens are kept, so that the queue holds tokens, and the averaged weights of
today read all of them: no key is older than another, and a run that goes on after a kill needs nothing but the draws of its epoch.
"""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.fusion_encoder import FusionEncoder, Words


@dataclass(frozen=True, slots=True)
class QueuedPairs:
    """Pictures and a text of each."""

    image_tokens: Tensor  # (pairs, patches, num_components)
    words: Words  # (pairs, words, text_token_dim)
    caption_ids: Tensor  # (pairs,), equal for equal captions


class MomentumQueue:
    """The last `size` pairs that were pushed; with a size of 0 there are never any."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: deque[QueuedPairs] = deque()

    def push(self, pairs: QueuedPairs) -> None:
        """Takes in a batch, and drops what is older than the last `size` pairs."""
        if not self._size:
            return
        self._blocks.append(_last(pairs, self._size))
        surplus = sum(len(block.caption_ids) for block in self._blocks) - self._size
        while surplus >= len(self._blocks[0].caption_ids):
            surplus -= len(self._blocks.popleft().caption_ids)
        if surplus > 0:
            self._blocks[0] = _last(self._blocks[0], len(self._blocks[0].caption_ids) - surplus)

    def pairs(self) -> QueuedPairs | None:
        """All of them, the oldest first; None where there are none."""
        if not self._blocks:
            return None
        longest = max(block.words.mask.shape[1] for block in self._blocks)
        padded = [_padded(block.words, longest) for block in self._blocks]
        words = Words(torch.cat([each.hidden_states for each in padded]), torch.cat([each.mask for each in padded]))
        tokens = torch.cat([block.image_tokens for block in self._blocks])
        return QueuedPairs(tokens, words, torch.cat([block.caption_ids for block in self._blocks]))


def queued_alignments(
    fusion: FusionEncoder, average: dict[str, Tensor], words: Words, patches: Tensor, queued: QueuedPairs
) -> tuple[Tensor, Tensor]:
    """Alignments of a batch's texts with queued pictures (texts, pairs), and of its pictures with queued texts (pictures, pairs).

    What is queued is read by the `average` of the weights (names as in the encoder's state), which no gradient reaches.
    """
    with torch.no_grad():
        queued_patches = _call(fusion.patch_projection, average, "patch_projection.", queued.image_tokens)
    of_texts = fusion.alignment(fusion.text_norm(words.hidden_states), words.mask, queued_patches)
    hidden = fusion.text_norm(queued.words.hidden_states)
    return of_texts, _call(fusion.alignment, average, "alignment.", hidden, queued.words.mask, patches).T


def _call(module: nn.Module, state: dict[str, Tensor], prefix: str, *arguments: Tensor) -> Tensor:
    """What the module would give with weights of `state`."""
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    result: Tensor = torch.func.functional_call(module, own, arguments)
    return result


def _last(pairs: QueuedPairs, number: int) -> QueuedPairs:
    if number >= len(pairs.caption_ids):
        return pairs
    words = Words(pairs.words.hidden_states[-number:], pairs.words.mask[-number:])
    return QueuedPairs(pairs.image_tokens[-number:], words, pairs.caption_ids[-number:])


def _padded(words: Words, num_words: int) -> Words:
    missing = num_words - words.mask.shape[1]
    return Words(functional.pad(words.hidden_states, (0, 0, 0, missing)), functional.pad(words.mask, (0, missing)))
