"""What a dual encoder knows before it pools: image tokens on a grid and text tokens, which is what a fusion encoder reads."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sightline.encoders.encoder import Encoder
from sightline.types import Embeddings

Span = tuple[int, int]
"""First character of a text and the one behind the last."""

NO_TOKEN = -1

GRID_SIDE = 7
"""Patches are stored on a grid of 7 x 7, the coarsest that still tells where things are: 49 patches of 256 bytes are 12.6 kB."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """What the image encoder knows of each patch, before pooling."""

    hidden_states: NDArray[np.float32]  # (batch, patches, width), row by row of the grid; those beyond the grid are padding
    grid: NDArray[np.int64]  # (batch, 2): rows and columns of patches
    pixels: NDArray[np.uint8] | None = None  # (batch, side, side, 3) as the image encoder saw them; None where they are no squares


@dataclass(frozen=True, slots=True)
class TextTokens:
    """What the text encoder knows of each token, before pooling."""

    hidden_states: NDArray[np.float32]  # (texts, tokens, width), zeros after a text's last token
    num_tokens: NDArray[np.int64]  # (texts,), special tokens included
    token_ids: NDArray[np.int64]  # (texts, tokens), of the tokeniser's vocabulary; `NO_TOKEN` after a text's last token

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(texts, tokens), true where there is a token."""
        return np.arange(self.hidden_states.shape[1]) < self.num_tokens[:, np.newaxis]

    def at(self, rows: NDArray[np.int64]) -> "TextTokens":
        """Of the texts in these rows, padded to the longest of them."""
        num_tokens = self.num_tokens[rows]
        longest = int(num_tokens.max(initial=0))
        return TextTokens(self.hidden_states[rows, :longest], num_tokens, self.token_ids[rows, :longest])

    def rows(self) -> "list[TokenRow]":
        """Each text's own, without padding."""
        rows = zip(self.hidden_states, self.token_ids, self.num_tokens, strict=True)
        return [TokenRow(hidden_states[:length], token_ids[:length]) for hidden_states, token_ids, length in rows]


@dataclass(frozen=True, slots=True, eq=False)
class TokenRow:
    """The tokens of one text."""

    hidden_states: NDArray[np.float32]  # (tokens, width)
    token_ids: NDArray[np.int64]  # (tokens,)


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text as it was typed, and which of the text's tokens stand for it."""

    text: str
    tokens: tuple[int, ...]  # positions, ascending, at least one


@dataclass(frozen=True, slots=True)
class SeenBox:
    """The part of a picture that the image encoder sees, which its grid lies over; in pixels of the upright picture."""

    left: float
    top: float
    right: float
    bottom: float


class TokenEncoder(Encoder, Protocol):
    """A dual encoder that shows its tokens as well."""

    @property
    def image_token_dim(self) -> int:
        """Width of the image tokens."""

    @property
    def text_token_dim(self) -> int:
        """Width of the text tokens."""

    def embed_pixels_with_tokens(self, pixels: NDArray[Any]) -> tuple[Embeddings, ImageTokens]:
        """What `embed_pixels` gives, and the tokens, from one pass of the network."""

    def squares(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
        """What was prepared as RGB pixels (batch, side, side, 3); None where pictures keep their shapes."""

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> tuple[Embeddings, TextTokens]:
        """What `embed_texts` gives, and the tokens, from one pass of the network."""

    def token_spans(self, text: str) -> list[Span | None]:
        """Of each token of the text, in order: the characters that it stands for, and None for one that stands for none."""

    def seen_box(self, width: int, height: int) -> SeenBox:
        """What the image encoder sees of an upright picture of so many pixels."""


def words_of(text: str, spans: Sequence[Span | None]) -> list[Word]:
    """The words that the network read, each what stands between spaces; a word that was cut off altogether is not among them."""
    begins = [_first_letter(text, span) for span in spans]
    words = []
    for match in re.finditer(r"\S+", text):
        tokens = tuple(place for place, begin in enumerate(begins) if begin is not None and match.start() <= begin < match.end())
        if tokens:
            words.append(Word(match.group(), tokens))
    return words


def _first_letter(text: str, span: Span | None) -> int | None:
    """Where the span's first character is that is no space: some tokenisers put the space before a word into its first token."""
    if span is None:
        return None
    return next((place for place in range(*span) if not text[place : place + 1].isspace()), None)


def on_common_grid(tokens: ImageTokens, *, side: int = GRID_SIDE) -> NDArray[np.float32]:
    """Tokens averaged (or repeated, where there are fewer) onto a side x side grid: (batch, side * side, width)."""
    width = tokens.hidden_states.shape[2]
    gridded = np.empty((len(tokens.grid), side * side, width), dtype=np.float32)
    for rows, columns in np.unique(tokens.grid, axis=0).tolist():
        alike = np.flatnonzero((tokens.grid == (rows, columns)).all(axis=1))
        maps = torch.from_numpy(np.ascontiguousarray(tokens.hidden_states[alike, : rows * columns], dtype=np.float32))
        maps = maps.transpose(1, 2).reshape(len(alike), width, rows, columns)  # (alike, width, rows, columns)
        pooled = functional.adaptive_avg_pool2d(maps, side)  # (alike, width, side, side)
        gridded[alike] = pooled.flatten(2).transpose(1, 2).numpy()
    return gridded


def padded_tokens(rows: Sequence[TokenRow], *, width: int) -> TextTokens:
    """Texts of different length side by side; `width` is that of their hidden states."""
    num_tokens = np.array([len(row.token_ids) for row in rows], dtype=np.int64)
    hidden_states = np.zeros((len(rows), num_tokens.max(initial=0), width), dtype=np.float32)
    token_ids = np.full(hidden_states.shape[:2], NO_TOKEN, dtype=np.int64)
    for place, row in enumerate(rows):
        hidden_states[place, : len(row.token_ids)], token_ids[place, : len(row.token_ids)] = row.hidden_states, row.token_ids
    return TextTokens(hidden_states, num_tokens, token_ids)
