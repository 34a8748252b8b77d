"""The fusion encoder: the words of a query look at a picture's patches, layer by layer, and say how well the two match.

Text tokens come out of the dual encoder's text side, patches out of its image side at indexing time; neither network runs here.
Up to four readings add up to the match logit:

- *alignment*: each word attends to the patches, and the cosine of the word and what it attended to counts by the word's learned
  weight (stacked cross-attention, Lee et al. 2018). It learns from few pairs, because every other picture of a batch is a negative.
- *likelihood*: how much likelier the words of the text are of this picture than of any, where a small network says of each word of a
  vocabulary whether people would use it of a picture with such patches (query likelihood, Ponte and Croft 1998, over words that are
  detected, Fang et al. 2015). It knows words and no sentences, is learnt from all captions of a picture together, and errs elsewhere.
- *second space*: the cosine of text and picture as a second image backbone saw it when the picture was indexed (see `second_space`);
  two backbones err elsewhere. Its rows follow the patches in what is stored of a picture.
- *fusion*: self-attention among the words, cross-attention to the patches and a feed-forward, layer by layer, and an ITM head on the
  first token (ALBEF, Li et al. 2021). It knows where a patch lies and which word belongs to which, as alignment does not.

    match logit = scale * (sum_w weight_w * cos(word_w, attended_w) - priors)
                  + share * (sum_w log(P(w | picture) / P(w)) / (words + 4) - prior)
                  + weight * (cos(text, picture) in the second space - priors) + head(first token)

Some pictures align with every text, and some texts with every picture. A *prior* says how much, the log-mean-exp of the alignments with a
bank of texts or pictures that comes with the weights, and is taken off as far as validation says (as QB-Norm does for similarities,
Bogolin et al. 2022). It is computed when a picture is read: 64 pictures against some thousand words are one matrix product.

Where we differ: patches are read once a batch. All texts meet all images in one grid, in which an image's keys and values are computed
once however many texts ask, and a text's first self-attention once however many images it asks.
"""

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.second_space import SecondSpace

_BACKGROUND = 0.03
"""Share of P(word) that is mixed into P(word | picture)."""

_UNSAID_WORDS = 4.0
"""Added to the number of a text's known words before its log ratios are averaged, as if it had so many more that tell nothing."""

_LIKELIHOOD_FACTOR = 4.0
"""Between the mean over a bank's pictures (0) and the highest; on validation 3, 4 and 5 do alike."""

_MASKED = -1e4
"""Far below every logit, and finite in half precision too."""


@dataclass(frozen=True, slots=True)
class FusionEncoderConfig:
    """Everything that, with the weights, makes a fusion encoder."""

    token_dim: int  # of the image tokens before they are projected
    text_width: int  # of the text side's hidden states
    grid_height: int
    grid_width: int
    width: int = 256  # of patches as stored, and of every layer
    num_layers: int = 2  # 0: alignment alone
    num_heads: int = 4
    hidden_dim: int = 1024
    num_bank_words: int = 0  # of all texts of the bank together; 0: there is no prior
    num_bank_texts: int = 0
    num_bank_images: int = 0
    num_vocabulary: int = 0  # words of the likelihood; 0: there is none
    likelihood_dim: int = 512  # of its hidden layer
    feature_dim: int = 0  # of the second backbone; 0: there is none
    num_component_rows: int = 2  # where there is one: rows of `width` numbers that hold components of its features
    num_embedding_rows: int = 2  # and rows that hold the picture's embedding in the second space
    second_hidden_dim: int = 512

    @property
    def num_patches(self) -> int:
        """Of one picture."""
        return self.grid_height * self.grid_width

    @property
    def num_whole_rows(self) -> int:
        """Rows that tell of the picture as a whole, stored after the patches; 0 without a second backbone."""
        return self.num_component_rows + self.num_embedding_rows if self.feature_dim else 0


@dataclass(frozen=True, slots=True)
class Words:
    """Text tokens as tensors: what the fusion encoder reads of texts."""

    hidden_states: Tensor  # (texts, words, text_width)
    mask: Tensor  # (texts, words), bool: true where there is a word
    token_ids: Tensor | None = None  # (texts, words), of the tokeniser's vocabulary, negative where there is none; None: not known


@dataclass(frozen=True, slots=True)
class KeysValues:
    """Of one layer, for a batch of images; each (images, heads, patches, head_dim)."""

    keys: Tensor
    values: Tensor

    def of(self, images: Tensor) -> "KeysValues":
        """Those of the images at these positions, which may repeat."""
        return KeysValues(self.keys[images], self.values[images])


class PatchProjection(nn.Module):
    """Image tokens to patches of unit length: what an index stores."""

    token_mean: Tensor
    token_std: Tensor

    def __init__(self, token_dim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("token_mean", torch.zeros(token_dim))
        self.register_buffer("token_std", torch.ones(token_dim))
        self.linear = nn.Linear(token_dim, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(images, patches, token_dim) -> (images, patches, width), rows of unit length."""
        patches: Tensor = self.linear((tokens.float() - self.token_mean) / self.token_std)
        return functional.normalize(patches, dim=-1)


def gram(patches: Tensor) -> Tensor:
    """Of (images, patches, width), how near the patches of an image are to each other: (images, patches, patches)."""
    return patches @ patches.transpose(1, 2)


class Alignment(nn.Module):
    """Each word against the patches it attends to."""

    def __init__(self, config: FusionEncoderConfig) -> None:
        super().__init__()
        self.word = nn.Linear(config.text_width, config.width)
        self.weight = nn.Linear(config.text_width, 1)
        self.log_sharpness = nn.Parameter(torch.tensor(9.0).log())

    def word_weights(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(texts, words), summing to 1 over the words of each text."""
        weights: Tensor = self.weight(hidden).squeeze(-1).float().masked_fill(~mask, _MASKED).softmax(dim=-1)
        return weights

    def attend(self, words: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Unit words (texts, words, width) and patches (images, patches, width) -> attention and word-patch cosines.

        Both (images, texts * words, patches); attention sums to 1 over the patches.
        """
        texts, num_words, width = words.shape
        images, num_patches, _ = patches.shape
        cosines = (
            patches.reshape(images * num_patches, width) @ words.reshape(texts * num_words, width).T
        )  # (images * patches, texts * words)
        cosines = cosines.view(images, num_patches, texts * num_words).transpose(1, 2)  # (images, texts * words, patches)
        return (cosines * self.log_sharpness.exp()).softmax(dim=-1), cosines

    def aligned(self, attention: Tensor, cosines: Tensor, gram: Tensor) -> Tensor:
        """What `attend` gave, both (images, words, patches), and the patches' `gram` -> cos(word, attended), (images, words).

        The attended vectors are never made.
        """
        along = (attention * cosines).sum(dim=-1)  # (images, words)
        length = ((attention @ gram) * attention).sum(dim=-1).clamp_min(1e-6).sqrt()  # (images, words)
        return along / length

    def forward(self, hidden: Tensor, mask: Tensor, patches: Tensor, *, gram_of_patches: Tensor | None = None) -> Tensor:
        """(texts, words, text_width), mask (texts, words), (images, patches, width) -> alignment (texts, images), in [-1, 1].

        The `gram` of the patches is computed where it is not given; it is half of the work for one text.
        """
        texts, num_words, _ = hidden.shape
        attention, cosines = self.attend(functional.normalize(self.word(hidden), dim=-1), patches)
        known = gram(patches) if gram_of_patches is None else gram_of_patches
        aligned = self.aligned(attention, cosines, known).view(-1, texts, num_words)  # (images, texts, words)
        return (aligned.float() * self.word_weights(hidden, mask)).sum(dim=-1).T  # (texts, images)

    def forward_each(self, hidden: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
        """The same with pictures of each text's own, (texts, images, patches, width) -> (texts, images)."""
        texts, images, num_patches, width = patches.shape
        words = functional.normalize(self.word(hidden), dim=-1)  # (texts, words, width)
        cosines = patches.reshape(texts, images * num_patches, width) @ words.transpose(1, 2)  # (texts, images * patches, words)
        cosines = cosines.view(texts * images, num_patches, -1).transpose(1, 2)  # (texts * images, words, patches)
        attention = (cosines * self.log_sharpness.exp()).softmax(dim=-1)
        grams = gram(patches.reshape(texts * images, num_patches, width))
        aligned = self.aligned(attention, cosines, grams).view(texts, images, -1)  # (texts, images, words)
        return (aligned.float() * self.word_weights(hidden, mask)[:, None]).sum(dim=-1)


class WordLikelihood(nn.Module):
    """Which words people would use of a picture."""

    vocabulary: Tensor
    log_shares: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    weight: Tensor

    def __init__(self, config: FusionEncoderConfig) -> None:
        super().__init__()
        self._num_patches = config.num_patches
        self._num_component_rows = config.num_component_rows if config.feature_dim else 0
        num_features = (2 + self._num_component_rows) * config.width
        self.register_buffer("vocabulary", torch.zeros(config.num_vocabulary, dtype=torch.int32))  # token ids, ascending
        self.register_buffer("log_shares", torch.zeros(config.num_vocabulary))  # of captions that have the word, over all pictures
        self.register_buffer("feature_mean", torch.zeros(num_features))
        self.register_buffer("feature_std", torch.ones(num_features))
        self.register_buffer("weight", torch.zeros(()))  # in the match logit
        self.hidden = nn.Linear(num_features, config.likelihood_dim)
        self.out = nn.Linear(config.likelihood_dim, config.num_vocabulary)

    def features(self, patches: Tensor) -> Tensor:
        """What is read of (images, rows, width), standardised: (images, features).

        The patches' mean and highest numbers, and the components of the second backbone's features.
        """
        grid = patches[:, : self._num_patches].float()
        components = patches[:, self._num_patches : self._num_patches + self._num_component_rows].float()
        pooled = torch.cat([grid.mean(dim=1), grid.amax(dim=1), components.flatten(1)], dim=1)
        return (pooled - self.feature_mean) / self.feature_std

    def hidden_states(self, patches: Tensor) -> Tensor:
        """What the words are read off: (images, rows, width) -> (images, likelihood_dim)."""
        hidden: Tensor = functional.gelu(self.hidden(self.features(patches)))
        return hidden

    def log_ratios(self, patches: Tensor, words: Tensor) -> Tensor:
        """Log P(word | picture) / P(word) for (images, rows, width) and places in the vocabulary (words,): (images, words)."""
        return self._log_ratios(self.hidden_states(patches), words)

    def _log_ratios(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Of `hidden_states`: (images, words).

        P(word | picture) is mixed with P(word), which bounds what one surprising word can take away (Jelinek-Mercer smoothing, Zhai and
        Lafferty 2001).
        """
        logits = functional.linear(hidden, self.out.weight[words], self.out.bias[words])
        ratios = functional.logsigmoid(logits) - self.log_shares[words]
        return torch.logaddexp(ratios + math.log(1 - _BACKGROUND), torch.full_like(ratios, math.log(_BACKGROUND)))

    def used_words(self, token_ids: Tensor) -> Tensor:
        """Which share of a text's known words each word of the vocabulary is: (texts, words) ids -> (texts, vocabulary).

        A word that occurs twice counts once. A row of n known words sums to n / (n + 4): what one word says is less sure than what ten say.
        """
        ids = token_ids.to(self.vocabulary.dtype)
        places = torch.searchsorted(self.vocabulary, ids.contiguous()).clamp_max(len(self.vocabulary) - 1)
        is_known = (self.vocabulary[places] == ids).float()  # (texts, words)
        used = torch.zeros(len(ids), len(self.vocabulary), device=ids.device).scatter_reduce_(1, places, is_known, "amax")
        return used / (used.sum(dim=1, keepdim=True) + _UNSAID_WORDS)

    def forward(self, token_ids: Tensor, patches: Tensor, bank: Tensor) -> Tensor:
        """Ids (texts, words) and patches (images, rows, width) -> (texts, images), less what they give with a bank's pictures.

        Of those come the `hidden_states`, (bank images, likelihood_dim), and what is taken off is the log-mean-exp over them: a text of
        words that are likely of any picture matches none for that.
        """
        with torch.autocast(patches.device.type, enabled=False):  # half a percent of a log ratio of 8 would be seen in the order
            words, shares = self._used(token_ids)
            found = shares @ self.log_ratios(patches.float(), words).T  # (texts, images)
            return found - self._of_bank(words, shares, bank)

    def forward_each(self, token_ids: Tensor, patches: Tensor, bank: Tensor) -> Tensor:
        """The same with pictures of each text's own, (texts, images, rows, width) -> (texts, images)."""
        texts, images = patches.shape[:2]
        with torch.autocast(patches.device.type, enabled=False):
            words, shares = self._used(token_ids)
            ratios = self.log_ratios(patches.flatten(0, 1).float(), words).view(texts, images, -1)  # (texts, images, words)
            return (ratios @ shares[:, :, None])[:, :, 0] - self._of_bank(words, shares, bank)

    def _used(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The places in the vocabulary of all words that the texts use, (words,), and their shares in each, (texts, words)."""
        used = self.used_words(token_ids)
        words = used.any(dim=0).nonzero()[:, 0]  # the others cost nothing
        return words, used[:, words]

    def _of_bank(self, words: Tensor, shares: Tensor, bank: Tensor) -> Tensor:
        """What is taken off: (texts, 1); zeros without a bank."""
        if not len(bank):
            return shares.new_zeros(len(shares), 1)
        of_bank = shares @ self._log_ratios(bank, words).T  # (texts, bank images)
        return _log_mean_exp(of_bank, torch.tensor(_LIKELIHOOD_FACTOR, device=bank.device))[:, None]


class Banks(nn.Module):
    """Texts and pictures that priors are taken from, and how much of these is taken off; empty until training has ended."""

    words: Tensor
    word_weights: Tensor
    text_by_word: Tensor
    patches: Tensor
    factors: Tensor
    strengths: Tensor

    def __init__(self, config: FusionEncoderConfig) -> None:
        super().__init__()
        self.register_buffer("words", torch.zeros(config.num_bank_words, config.width))  # of unit length
        self.register_buffer("word_weights", torch.zeros(config.num_bank_words))  # summing to 1 over the words of each text
        self.register_buffer("text_by_word", torch.zeros(config.num_bank_words))
        self.register_buffer("patches", torch.zeros(config.num_bank_images, config.num_patches + config.num_whole_rows, config.width))
        self.register_buffer("factors", torch.ones(2))  # sharpness of the mean, for pictures and for texts
        self.register_buffer("strengths", torch.zeros(2))  # share of the prior that is taken off, likewise
        self._num_texts = config.num_bank_texts
        self._num_patches = config.num_patches

    @property
    def grids(self) -> Tensor:
        """The pictures' patches without what tells of them as a whole: (bank images, patches, width)."""
        return self.patches[:, : self._num_patches]

    @property
    def whole_rows(self) -> Tensor:
        """What tells of the pictures as a whole: (bank images, rows, width)."""
        return self.patches[:, self._num_patches :]

    def of_images(self, alignment: Alignment, patches: Tensor, *, factor: Tensor) -> Tensor:
        """Log-mean-exp of the alignments of (images, patches, width) with the bank's texts: (images,)."""
        attention, cosines = alignment.attend(self.words[None], patches)  # (images, words, patches)
        weighted = alignment.aligned(attention, cosines, gram(patches)).float() * self.word_weights  # (images, words)
        aligned = weighted.new_zeros(len(patches), self._num_texts)
        aligned.index_add_(1, self.text_by_word.long(), weighted)  # (images, texts)
        return _log_mean_exp(aligned, factor)

    def of_texts(
        self, alignment: Alignment, hidden: Tensor, mask: Tensor, *, factor: Tensor, known: "BankReadings | None" = None
    ) -> Tensor:
        """Log-mean-exp of the alignments of texts (texts, words, text_width) with the bank's pictures: (texts,).

        What is `known` of those needs not be computed.
        """
        if known is None:
            return _log_mean_exp(alignment(hidden, mask, self.grids), factor)
        return _log_mean_exp(alignment(hidden, mask, known.grids, gram_of_patches=known.gram_of_patches), factor)


def _log_mean_exp(aligned: Tensor, factor: Tensor) -> Tensor:
    """Over the last dimension: (rows, columns) -> (rows,), between their mean (factor 0) and their highest."""
    return ((aligned.float() * factor).logsumexp(dim=-1) - math.log(aligned.shape[-1])) / factor


@dataclass(frozen=True, slots=True)
class Priors:
    """What is taken off the alignments, for images (images,) or, where each text has its own, (texts, images), and for texts (texts,)."""

    images: Tensor
    texts: Tensor


class Attention(nn.Module):
    """Multi-head attention whose keys and values are made apart, so that they may be made once."""

    def __init__(self, config: FusionEncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(0.0)  # training says how much

    def keys_values(self, tokens: Tensor) -> KeysValues:
        """(batch, tokens, width) -> keys and values."""
        keys, values = self.key_value(tokens).chunk(2, dim=-1)  # each (batch, tokens, width)
        return KeysValues(self._heads(keys), self._heads(values))

    def forward(self, tokens: Tensor, memory: KeysValues, *, mask: Tensor | None = None) -> Tensor:
        """(batch, tokens, width) attends to `memory`; `mask` (batch, memory tokens) is false where nothing is to be seen."""
        attended = functional.scaled_dot_product_attention(
            self._heads(self.query(tokens)), memory.keys, memory.values, attn_mask=None if mask is None else mask[:, None, None, :]
        )  # (batch, heads, tokens, head_dim)
        return self._joined(attended)

    def forward_with_probabilities(self, tokens: Tensor, memory: KeysValues) -> tuple[Tensor, Tensor]:
        """The same without a mask, and the attention (batch, heads, tokens, memory tokens), through which gradients flow."""
        queries = self._heads(self.query(tokens))
        logits = queries @ memory.keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
        probabilities = logits.softmax(dim=-1)
        return self._joined(probabilities @ memory.values), probabilities

    def _heads(self, tokens: Tensor) -> Tensor:
        batch, num_tokens, width = tokens.shape
        return tokens.view(batch, num_tokens, self.num_heads, width // self.num_heads).transpose(1, 2)  # (batch, heads, tokens, head_dim)

    def _joined(self, heads: Tensor) -> Tensor:
        batch, num_heads, num_tokens, head_dim = heads.shape
        joined: Tensor = self.dropout(self.out(heads.transpose(1, 2).reshape(batch, num_tokens, num_heads * head_dim)))
        return joined  # (batch, tokens, width)


class FeedForward(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, config: FusionEncoderConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.hidden_dim)
        self.out = nn.Linear(config.hidden_dim, config.width)
        self.dropout = nn.Dropout(0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) -> the same shape."""
        out: Tensor = self.dropout(self.out(functional.gelu(self.hidden(tokens))))
        return out


class FusionLayer(nn.Module):
    """Self-attention among words, cross-attention to patches, feed-forward; each normalised before (Xiong et al. 2020)."""

    def __init__(self, config: FusionEncoderConfig) -> None:
        super().__init__()
        self.self_norm, self.cross_norm, self.feed_norm = (nn.LayerNorm(config.width) for _ in range(3))
        self.self_attention, self.cross_attention = Attention(config), Attention(config)
        self.feed_forward = FeedForward(config)

    def read_words(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Self-attention: (batch, words, width) and their mask -> the same shape."""
        normed = self.self_norm(tokens)
        attended: Tensor = self.self_attention(normed, self.self_attention.keys_values(normed), mask=mask)
        return tokens + attended

    def read_patches(self, tokens: Tensor, memory: KeysValues) -> Tensor:
        """Cross-attention and feed-forward: (batch, words, width), keys and values of a batch of images -> the same shape."""
        tokens = tokens + self.cross_attention(self.cross_norm(tokens), memory)
        fed: Tensor = self.feed_forward(self.feed_norm(tokens))
        return tokens + fed

    def read_patches_with_probabilities(self, tokens: Tensor, memory: KeysValues) -> tuple[Tensor, Tensor]:
        """The same, and the cross-attention (batch, heads, words, patches)."""
        attended, probabilities = self.cross_attention.forward_with_probabilities(self.cross_norm(tokens), memory)
        tokens = tokens + attended
        fed: Tensor = self.feed_forward(self.feed_norm(tokens))
        return tokens + fed, probabilities


@dataclass(frozen=True, slots=True)
class BankReadings:
    """What the readings make of the bank's pictures, whoever is asked about: it depends on the weights alone."""

    grids: Tensor  # (bank images, patches, width)
    gram_of_patches: Tensor  # (bank images, patches, patches)
    likelihood_states: Tensor | None  # (bank images, likelihood_dim); None without a likelihood
    second_embeddings: Tensor | None  # (bank images, embedding_dim); None without a second space


def second_space_of(config: FusionEncoderConfig) -> SecondSpace | None:
    """With random weights; None where there is no second backbone."""
    if not config.feature_dim:
        return None
    return SecondSpace(
        feature_dim=config.feature_dim,
        text_width=config.text_width,
        width=config.width,
        component_rows=config.num_component_rows,
        embedding_rows=config.num_embedding_rows,
        hidden_dim=config.second_hidden_dim,
        num_bank_texts=config.num_bank_texts,
    )


class FusionEncoder(nn.Module):
    """Match logits of texts and images, from text tokens and stored patches."""

    def __init__(self, config: FusionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_projection = PatchProjection(config.token_dim, config.width)
        self.text_norm = nn.LayerNorm(config.text_width, elementwise_affine=False)
        self.alignment = Alignment(config)
        self.alignment_scale = nn.Parameter(torch.tensor(30.0).log())
        self.banks = Banks(config)
        self.likelihood = WordLikelihood(config) if config.num_vocabulary else None
        self.second = second_space_of(config)
        self._frozen_bank: dict[torch.dtype, BankReadings] = {}  # by the type that products are computed in
        self._layers = nn.ModuleList(FusionLayer(config) for _ in range(config.num_layers))
        if not config.num_layers:
            return
        self.text_projection = nn.Linear(config.text_width, config.width)
        self.patch_norm = nn.LayerNorm(config.width)
        self.patch_position = nn.Parameter(torch.randn(config.num_patches, config.width) * 0.02)
        self.head_norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, 1)
        nn.init.zeros_(self.head.weight)  # begins as alignment alone
        nn.init.zeros_(self.head.bias)

    @property
    def layers(self) -> list[FusionLayer]:
        """The first reads the patches first."""
        return cast(list[FusionLayer], list(self._layers))

    def freeze(self, computed_in: torch.dtype | None) -> None:
        """To be called where weights will not change any more: what the readings make of the bank's pictures is computed once.

        `computed_in` is the type that autocast will compute products in, where it will be on. The numbers that come out are the same; two
        fifths of a second look at 64 candidates went into computing them for every 32 of these anew.
        """
        readings = self.bank_readings()
        self._frozen_bank[readings.grids.dtype] = readings
        if computed_in is not None:
            grids, grams = (each.to(computed_in) for each in (readings.grids, readings.gram_of_patches))
            self._frozen_bank[computed_in] = replace(readings, grids=grids, gram_of_patches=grams)

    def bank_readings(self) -> BankReadings:
        """What was frozen, or what the weights of now give."""
        device = self.banks.patches.device.type
        computed_in = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.banks.patches.dtype
        if computed_in in self._frozen_bank:
            return self._frozen_bank[computed_in]
        with torch.autocast(device, enabled=False):
            return BankReadings(
                self.banks.grids,
                gram(self.banks.grids),
                None if self.likelihood is None else self.likelihood.hidden_states(self.banks.patches),
                None if self.second is None else self.second.embeddings_in(self.banks.whole_rows),
            )

    def project(self, tokens: Tensor, features: Tensor | None = None) -> Tensor:
        """What an index stores of pictures: image tokens (images, patches, token_dim) -> (images, rows, width).

        Patches of unit length, row by row of the grid; where there is a second space, the rows of the second backbone's `features`
        (images, feature_dim) follow.
        """
        patches: Tensor = self.patch_projection(tokens)
        if self.second is None:
            return patches
        assert features is not None
        return torch.cat([patches, self.second.rows_of(features)], dim=1)

    def grid_of(self, patches: Tensor) -> Tensor:
        """The patches alone, of (images, rows, width): (images, patches, width)."""
        return patches[:, : self.config.num_patches]

    def whole_of(self, patches: Tensor) -> Tensor:
        """The rows that tell of the picture as a whole, of (images, rows, width)."""
        return patches[:, self.config.num_patches :]

    def image_priors(self, patches: Tensor) -> Tensor:
        """What is taken off the alignments of (images, rows, width), in their units, the second space's share among it: (images,)."""
        if not self.config.num_bank_texts:
            return torch.zeros(len(patches), device=patches.device)
        priors = self.banks.strengths[0] * self.banks.of_images(self.alignment, self.grid_of(patches), factor=self.banks.factors[0])
        if self.second is None:
            return priors
        of_whole = self.second.image_priors(self.second.embeddings_in(self.whole_of(patches)))
        return priors + self.second.weight * self.second.strengths[0] * of_whole / self.alignment_scale.exp()

    def text_priors(self, texts: Words) -> Tensor:
        """What is taken off the alignments of texts, in their units, the second space's share among it: (texts,)."""
        if not self.config.num_bank_images:
            return torch.zeros(len(texts.mask), device=texts.mask.device)
        hidden = self.text_norm(texts.hidden_states)
        known = self.bank_readings()
        of_alignment = self.banks.of_texts(self.alignment, hidden, texts.mask, factor=self.banks.factors[1], known=known)
        priors = self.banks.strengths[1] * of_alignment
        if self.second is None:
            return priors
        assert known.second_embeddings is not None
        of_whole = self.second.text_priors(self.second.embed_texts(texts.hidden_states, texts.mask), known.second_embeddings)
        return priors + self.second.weight * self.second.strengths[1] * of_whole / self.alignment_scale.exp()

    def forward(self, texts: Words, patches: Tensor, *, priors: Priors | None = None) -> Tensor:
        """Match logits of every text with every image: (texts, images).

        `patches` is (images, rows, width), as `project` gives them. `priors` are computed where they are not given.
        Cost: texts * images * words * patches; keys and values once an image and layer.
        """
        priors = Priors(self.image_priors(patches), self.text_priors(texts)) if priors is None else priors
        num_texts, num_words, _ = texts.hidden_states.shape
        num_images = len(patches)
        hidden, grid = self.text_norm(texts.hidden_states), self.grid_of(patches)
        aligned = self.alignment(hidden, texts.mask, grid) - priors.images - priors.texts[:, None]  # (texts, images)
        added = self.without_attention(texts, patches)  # (texts, images)
        if not self.layers:
            return self.logits(aligned, added)
        memories = self.memories(grid)
        tokens = self.layers[0].read_words(self.text_projection(hidden), texts.mask)  # (texts, words, width)
        # All texts of an image in one row: its keys and values serve them together.
        tokens = tokens.reshape(1, num_texts * num_words, -1).expand(num_images, -1, -1)  # (images, texts * words, width)
        for number, (layer, memory) in enumerate(zip(self.layers, memories, strict=True)):
            if number:
                tokens = tokens.reshape(num_images * num_texts, num_words, -1)
                tokens = layer.read_words(tokens, texts.mask.repeat(num_images, 1))
                tokens = tokens.reshape(num_images, num_texts * num_words, -1)
            tokens = layer.read_patches(tokens, memory)
        first = tokens.reshape(num_images, num_texts, num_words, -1)[:, :, 0]  # (images, texts, width)
        return self.logits(aligned, added + self.head_logits(first).T)

    def forward_pairs(self, texts: Words, patches: Tensor, *, text_by_pair: Tensor, image_by_pair: Tensor) -> Tensor:
        """Match logits of chosen pairs: (pairs,). `text_by_pair` and `image_by_pair` are positions in `texts` and `patches`."""
        hidden, grid = self.text_norm(texts.hidden_states), self.grid_of(patches)
        prior = self.image_priors(patches)[image_by_pair] + self.text_priors(texts)[text_by_pair]  # (pairs,)
        aligned = self.alignment(hidden, texts.mask, grid)[text_by_pair, image_by_pair] - prior  # (pairs,)
        added = self.without_attention(texts, patches)[text_by_pair, image_by_pair]  # (pairs,)
        if not self.layers:
            return self.logits(aligned, added)
        tokens = self.layers[0].read_words(self.text_projection(hidden), texts.mask)[text_by_pair]  # (pairs, words, width)
        mask = texts.mask[text_by_pair]
        for number, (layer, memory) in enumerate(zip(self.layers, self.memories(grid), strict=True)):
            if number:
                tokens = layer.read_words(tokens, mask)
            tokens = layer.read_patches(tokens, memory.of(image_by_pair))
        return self.logits(aligned, added + self.head_logits(tokens[:, 0]))

    def forward_each(self, texts: Words, patches: Tensor, *, priors: Priors) -> Tensor:
        """Match logits of every text with images of its own, (texts, images, rows, width): (texts, images).

        `priors.images` are (texts, images). Cost: one pass for queries that have nothing in common but the time at which they came.
        """
        num_texts, num_images = patches.shape[:2]
        hidden, grid = self.text_norm(texts.hidden_states), patches[:, :, : self.config.num_patches]
        aligned = self.alignment.forward_each(hidden, texts.mask, grid) - priors.images - priors.texts[:, None]
        added = torch.zeros_like(aligned)
        if self.likelihood is not None and texts.token_ids is not None and bool(self.likelihood.weight):
            bank = self.bank_readings().likelihood_states
            assert bank is not None
            added = added + self.likelihood.weight * self.likelihood.forward_each(texts.token_ids, patches, bank)
        if self.second is not None and bool(self.second.weight):
            whole = patches[:, :, self.config.num_patches :]
            added = added + self.second.weight * self.second.similarities_each(texts.hidden_states, texts.mask, whole)
        if not self.layers:
            return self.logits(aligned, added)
        tokens = self.layers[0].read_words(self.text_projection(hidden), texts.mask).repeat_interleave(num_images, dim=0)
        mask = texts.mask.repeat_interleave(num_images, dim=0)  # (texts * images, words)
        for number, (layer, memory) in enumerate(zip(self.layers, self.memories(grid.flatten(0, 1)), strict=True)):
            if number:
                tokens = layer.read_words(tokens, mask)
            tokens = layer.read_patches(tokens, memory)  # (texts * images, words, width)
        return self.logits(aligned, added + self.head_logits(tokens[:, 0]).view(num_texts, num_images))

    def without_attention(self, texts: Words, patches: Tensor) -> Tensor:
        """What the readings without attention add to the match logits of texts and (images, rows, width): (texts, images)."""
        likely = self.likelihoods(texts, patches)
        if self.second is None or not bool(self.second.weight):
            return likely
        return likely + self.second.weight * self.second.similarities(texts.hidden_states, texts.mask, self.whole_of(patches))

    def likelihoods(self, texts: Words, patches: Tensor) -> Tensor:
        """What the likelihood adds to the match logits of texts and (images, rows, width): (texts, images), zeros without one."""
        if self.likelihood is None or texts.token_ids is None or not bool(self.likelihood.weight):
            return torch.zeros(len(texts.mask), len(patches), device=patches.device)
        bank = self.bank_readings().likelihood_states
        assert bank is not None
        likely: Tensor = self.likelihood(texts.token_ids, patches, bank)
        return self.likelihood.weight * likely

    def memories(self, patches: Tensor) -> list[KeysValues]:
        """Each layer's keys and values of (images, patches, width)."""
        placed = self.patch_norm(patches) + self.patch_position
        return [layer.cross_attention.keys_values(placed) for layer in self.layers]

    def head_logits(self, first_tokens: Tensor) -> Tensor:
        """The ITM head on first tokens (..., width) -> (...)."""
        logits: Tensor = self.head(self.head_norm(first_tokens)).squeeze(-1)
        return logits

    def logits(self, aligned: Tensor, added: Tensor) -> Tensor:
        """The match logit of alignment, less all priors, and of what the other readings add, in float32."""
        return self.alignment_scale.exp() * aligned.float() + added.float()
