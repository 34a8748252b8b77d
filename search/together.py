"""Several queries whose words go through the text encoder in one pass."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sightline.encoders.query_bank import QueryBank
from sightline.types import Embeddings, Modality

if TYPE_CHECKING:  # it imports torch
    from sightline.encoders.tokens import ImageTokens, SeenBox, Span, TextTokens, TokenEncoder


class TextsTogether:
    """An encoder that embeds all of `texts` when it is first asked for one of them, and remembers them. For one thread.

    Implements `sightline.encoders.tokens.TokenEncoder`; what it is asked besides goes to the encoder itself.
    """

    def __init__(self, encoder: "TokenEncoder", texts: Sequence[str]) -> None:
        self._encoder = encoder
        self._row_by_text = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self._embeddings: Embeddings | None = None
        self._tokens: TextTokens | None = None

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """See `Encoder`."""
        if not all(text in self._row_by_text for text in texts):
            return self._encoder.embed_texts(texts)
        if self._embeddings is None:
            self._embeddings = self._encoder.embed_texts(list(self._row_by_text))
        return np.ascontiguousarray(self._embeddings[self._rows(texts)])

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> "tuple[Embeddings, TextTokens]":
        """See `TokenEncoder`."""
        if not all(text in self._row_by_text for text in texts):
            return self._encoder.embed_texts_with_tokens(texts)
        if self._tokens is None:
            self._embeddings, self._tokens = self._encoder.embed_texts_with_tokens(list(self._row_by_text))
        return self.embed_texts(texts), self._tokens.at(np.array(self._rows(texts), dtype=np.int64))

    @property
    def name(self) -> str:
        """See `Encoder`."""
        return self._encoder.name

    @property
    def fingerprint(self) -> str:
        """See `Encoder`."""
        return self._encoder.fingerprint

    @property
    def embedding_dim(self) -> int:
        """See `Encoder`."""
        return self._encoder.embedding_dim

    @property
    def image_side(self) -> int:
        """See `Encoder`."""
        return self._encoder.image_side

    @property
    def query_banks(self) -> Mapping[Modality, QueryBank]:
        """See `Encoder`."""
        return self._encoder.query_banks

    @property
    def image_token_dim(self) -> int:
        """See `TokenEncoder`."""
        return self._encoder.image_token_dim

    @property
    def text_token_dim(self) -> int:
        """See `TokenEncoder`."""
        return self._encoder.text_token_dim

    def load(self, modality: Modality) -> None:
        """See `Encoder`."""
        self._encoder.load(modality)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """See `Encoder`."""
        return self._encoder.prepare(image)

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        """See `Encoder`."""
        return self._encoder.embed_pixels(pixels)

    def embed_pixels_with_tokens(self, pixels: NDArray[Any]) -> "tuple[Embeddings, ImageTokens]":
        """See `TokenEncoder`."""
        return self._encoder.embed_pixels_with_tokens(pixels)

    def squares(self, pixels: NDArray[Any]) -> "NDArray[np.uint8] | None":
        """See `TokenEncoder`."""
        return self._encoder.squares(pixels)

    def is_truncated(self, text: str) -> bool:
        """See `Encoder`."""
        return self._encoder.is_truncated(text)

    def token_spans(self, text: str) -> "list[Span | None]":
        """See `TokenEncoder`."""
        return self._encoder.token_spans(text)

    def seen_box(self, width: int, height: int) -> "SeenBox":
        """See `TokenEncoder`."""
        return self._encoder.seen_box(width, height)

    def _rows(self, texts: Sequence[str]) -> list[int]:
        return [self._row_by_text[text] for text in texts]
