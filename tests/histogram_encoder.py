"""A small deterministic encoder: colours of pictures and colour words of texts in one space, with no network at all.

It stands where a test is about what surrounds an encoder. "red" finds red pictures, a picture finds itself, equal input gives equal
embeddings, and a hundred pictures take milliseconds.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.encoders.query_bank import QueryBank
from sightline.types import Embeddings, Modality

_COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
_SIDE = 32
_NUM_COLOURS = len(_COLOURS)
_NUM_WORDS = 32  # dimensions for words that are no colours, shared by hash
_DIM = 64
_COARSE_SIDE = 2  # the rest: a coarse picture, so that two red pictures differ


class HistogramEncoder:
    """Implements `sightline.encoders.encoder.Encoder`: 6 colours, 32 hashed words, 2 x 2 coarse RGB pixels, 14 zeros."""

    def __init__(self, *, version: str = "1", query_banks: Mapping[Modality, QueryBank] | None = None) -> None:
        self._version = version
        self.query_banks: Mapping[Modality, QueryBank] = query_banks or {}

    @property
    def name(self) -> str:
        return "histogram"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"histogram {self._version}".encode()).hexdigest()

    @property
    def embedding_dim(self) -> int:
        return _DIM

    @property
    def image_side(self) -> int:
        return _SIDE

    def load(self, modality: Modality) -> None:
        """It has no network."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """(side, side, 3) uint8."""
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.uint8)

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        batch = pixels.shape[0]
        flat = pixels.reshape(batch, -1, 1, 3).astype(np.float32)  # (batch, pixels, 1, rgb)
        palette = np.array(list(_COLOURS.values()), dtype=np.float32)  # (colours, rgb)
        nearest = ((flat - palette) ** 2).sum(-1).argmin(-1)  # (batch, pixels)
        embeddings = np.zeros((batch, _DIM), dtype=np.float32)
        embeddings[:, :_NUM_COLOURS] = np.stack([(nearest == colour).mean(1) for colour in range(_NUM_COLOURS)], axis=1)
        block = _SIDE // _COARSE_SIDE
        coarse = pixels.reshape(batch, _COARSE_SIDE, block, _COARSE_SIDE, block, 3).mean((2, 4)).reshape(batch, -1)  # (batch, 12)
        start = _NUM_COLOURS + _NUM_WORDS
        embeddings[:, start : start + coarse.shape[1]] = coarse / 255 * 0.1
        return _normalised(embeddings)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        embeddings = np.zeros((len(texts), _DIM), dtype=np.float32)
        colour_by_word = {word: colour for colour, word in enumerate(_COLOURS)}
        for row, text in enumerate(texts):
            for word in text.lower().split():
                colour = colour_by_word.get(word)
                embeddings[row, _hashed_dimension(word) if colour is None else colour] += 1 if colour is not None else 0.2
        return _normalised(embeddings)

    def token_spans(self, text: str) -> list[tuple[int, int] | None]:
        """Its tokens are words."""
        return [match.span() for match in re.finditer(r"\S+", text)]

    def is_truncated(self, text: str) -> bool:
        return False


def _hashed_dimension(word: str) -> int:
    digest = hashlib.sha256(word.encode()).digest()
    return _NUM_COLOURS + digest[0] % _NUM_WORDS


def _normalised(embeddings: NDArray[np.float32]) -> Embeddings:
    embeddings[~embeddings.any(axis=1), -1] = 1  # an empty text points somewhere, away from everything else
    return np.ascontiguousarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
