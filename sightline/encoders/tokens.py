"""What a dual encoder knows before it pools: image tokens on a grid and text tokens, which is what a fusion encoder reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sightline.encoders.encoder import Encoder
from sightline.types import Embeddings

GRID_SIDE = 7
"""Patches are stored on a grid of 7 x 7, the coarsest that still tells where things are: 49 patches of 256 bytes are 12.6 kB."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """What the image encoder knows of each patch, before pooling."""

    hidden_states: NDArray[np.float32]  # (batch, patches, width), row by row of the grid; those beyond the grid are padding
    grid: NDArray[np.int64]  # (batch, 2): rows and columns of patches


@dataclass(frozen=True, slots=True)
class TextTokens:
    """What the text encoder knows of each token, before pooling."""

    hidden_states: NDArray[np.float32]  # (texts, tokens, width), zeros after a text's last token
    num_tokens: NDArray[np.int64]  # (texts,), special tokens included

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(texts, tokens), true where there is a token."""
        return np.arange(self.hidden_states.shape[1]) < self.num_tokens[:, np.newaxis]


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

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> tuple[Embeddings, TextTokens]:
        """What `embed_texts` gives, and the tokens, from one pass of the network."""


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


def padded_tokens(rows: Sequence[NDArray[np.float32]], *, width: int) -> TextTokens:
    """Texts of different length, each (tokens, width), side by side."""
    num_tokens = np.array([len(row) for row in rows], dtype=np.int64)
    padded = np.zeros((len(rows), num_tokens.max(initial=0), width), dtype=np.float32)
    for padded_row, row in zip(padded, rows, strict=True):
        padded_row[: len(row)] = row
    return TextTokens(padded, num_tokens)
