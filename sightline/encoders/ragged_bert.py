"""BERT over texts of different lengths, computed on a CPU without what pads them.

Captions have between five and twenty-five tokens, so that a quarter of a batch is padding, for which transformers' own forward pass
computes all that it does for words. Here the layers' products run over the words alone, one row each, from packed weights, with queries,
keys and values in one product and the activation inside of the next; texts are padded for their attention only. One text takes a quarter
less processor time so, and sixteen a fifth less (`benchmarks.text_encoding`). The numbers are those of transformers, under autocast where
the layers are in bfloat16, up to rounding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.packed_linear import PackedLinear, can_pack


class HiddenStates(NamedTuple):
    """What of transformers' output is used here."""

    last_hidden_state: Tensor  # (batch, tokens, width), 0 for padding


def is_plain_bert(text: nn.Module, dtype: torch.dtype) -> bool:
    """Whether it is of the kind that `RaggedBert` computes, with layers in that type."""
    if type(text).__name__ != "BertModel" or not can_pack():  # by name: importing it takes seconds, where no text is asked for
        return False
    config: Any = text.config
    is_encoder = not config.is_decoder and not config.add_cross_attention
    has_learned_places = getattr(config, "position_embedding_type", "absolute") == "absolute"
    is_in_one_type = all(each.weight.dtype is dtype for each in _layers(text).modules() if isinstance(each, nn.Linear))
    return is_encoder and has_learned_places and config.hidden_act == "gelu" and is_in_one_type


class RaggedBert(nn.Module):
    """Takes the place of a `BertModel` that embeds; it cannot be trained or saved. Raises nothing that the model does not."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        embeddings: Any = text.embeddings
        config: Any = text.config
        self._words = embeddings.word_embeddings.weight.detach()  # (vocabulary, width)
        self._places = (embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]).detach()  # (places, width)
        self._norm = embeddings.LayerNorm
        self._dtype = next(each.weight.dtype for each in _layers(text).modules() if isinstance(each, nn.Linear))
        self._layers = nn.ModuleList(_Layer(layer, num_heads=config.num_attention_heads) for layer in _layers(text))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> HiddenStates:
        """Token ids and mask (batch, tokens), each text's own tokens first -> the hidden states of the last layer."""
        ragged = _Ragged.of(attention_mask.bool(), self._dtype)
        width = self._words.shape[1]
        words = self._words[input_ids.flatten()[ragged.own]] + self._places[ragged.places]  # (own tokens, width)
        hidden: Tensor = self._norm(words)
        for layer in self._layers:
            hidden = layer(hidden, ragged)
        padded = hidden.new_zeros(ragged.num_texts * ragged.longest, width)
        padded[ragged.own] = hidden
        return HiddenStates(padded.view(ragged.num_texts, ragged.longest, width))


@dataclass(frozen=True, slots=True)
class _Ragged:
    """Where the own tokens of a batch are among all, padding included."""

    num_texts: int
    longest: int
    own: Tensor  # (own tokens,) into the flattened batch
    places: Tensor  # (own tokens,) of each in its text
    spread: Tensor | None  # (batch x tokens,) into the own tokens, any for padding; None where nothing is padded
    bias: Tensor | None  # (batch, 1, 1, tokens), in the layers' type: -inf for padding

    @classmethod
    def of(cls, mask: Tensor, dtype: torch.dtype) -> "_Ragged":
        num_texts, longest = mask.shape
        own = mask.flatten().nonzero().squeeze(1)
        if len(own) == mask.numel():
            return cls(num_texts, longest, own, own % longest, None, None)
        spread = torch.zeros(mask.numel(), dtype=torch.int64)
        spread[own] = torch.arange(len(own))
        bias = torch.zeros(num_texts, 1, 1, longest, dtype=dtype).masked_fill_(~mask[:, None, None, :], -torch.inf)
        return cls(num_texts, longest, own, own % longest, spread, bias)


class _Layer(nn.Module):
    """One layer. What is added up and normalised is in float32, what is multiplied in the type of the weights, as under autocast."""

    def __init__(self, layer: nn.Module, *, num_heads: int) -> None:
        super().__init__()
        attention, intermediate, output = _parts(layer)
        self._num_heads = num_heads
        self._attended_to = PackedLinear(_beside_each_other(attention.self.query, attention.self.key, attention.self.value))
        self._attended = PackedLinear(attention.output.dense)
        self._attended_norm = attention.output.LayerNorm
        self._inner = PackedLinear(intermediate.dense, activation="gelu")
        self._outer = PackedLinear(output.dense)
        self._outer_norm = output.LayerNorm

    def forward(self, hidden: Tensor, ragged: _Ragged) -> Tensor:
        """(own tokens, width) in float32 -> the same."""
        attended: Tensor = self._attended_norm(self._attended(self._attention(hidden, ragged)) + hidden)
        normed: Tensor = self._outer_norm(self._outer(self._inner(attended)) + attended)
        return normed

    def _attention(self, hidden: Tensor, ragged: _Ragged) -> Tensor:
        """(own tokens, width) -> (own tokens, width), in the type of the weights."""
        projected = self._attended_to(hidden)  # (own tokens, 3 x width)
        if ragged.spread is not None:
            projected = projected[ragged.spread]
        heads = projected.view(ragged.num_texts, ragged.longest, 3, self._num_heads, -1)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)  # (batch, heads, tokens, head_dim) each
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=ragged.bias)
        flat = attended.transpose(1, 2).reshape(ragged.num_texts * ragged.longest, -1)
        return flat if ragged.spread is None else flat[ragged.own]


def _layers(text: nn.Module) -> nn.ModuleList:
    encoder: Any = text.encoder
    layers: nn.ModuleList = encoder.layer
    return layers


def _parts(layer: Any) -> tuple[Any, Any, Any]:
    """Its attention, and the two halves of its feed-forward."""
    return layer.attention, layer.intermediate, layer.output


def _beside_each_other(*linears: nn.Linear) -> nn.Linear:
    """One layer that gives what each of them gives, one after the other."""
    joined = nn.Linear(linears[0].in_features, sum(each.out_features for each in linears), dtype=linears[0].weight.dtype)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([each.weight for each in linears]))
        joined.bias.copy_(torch.cat([each.bias for each in linears]))
    return joined
