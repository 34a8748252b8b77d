"""A query as points in the shared space: each part embedded, then added up with its weight."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.query import GivenEmbedding, Picture, Words
from sightline.encoders.encoder import Encoder
from sightline.encoders.image_input import decode_image
from sightline.errors import InvalidCheckpoint, InvalidQuery, UnreadableImage
from sightline.types import Embeddings, Modality

if TYPE_CHECKING:  # it imports torch, which a query without words can do without
    from sightline.encoders.tokens import ImageTokens, TextTokens, TokenEncoder, TokenRow

MIN_NORM = 1e-6
"""A sum shorter than this is rounding error: its direction means nothing."""


@dataclass(frozen=True, slots=True)
class EmbeddedPart:
    """One part of a query in the shared space."""

    embedding: NDArray[np.float32]  # (embedding_dim,), of unit length
    modality: Modality
    weight: float


class TextEmbedder(Protocol):
    """What embeds texts: an encoder, or `QueryTexts`."""

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """(len(texts), embedding_dim)."""


class QueryTexts:
    """Texts of one query, which go through the network once, for the similarity and for the second look alike."""

    def __init__(self, encoder: "TokenEncoder") -> None:
        self._encoder = encoder
        self._tokens_by_text: dict[str, TokenRow] = {}

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """As the encoder's own."""
        embeddings, tokens = self._encoder.embed_texts_with_tokens(texts)
        self._tokens_by_text |= dict(zip(texts, tokens.rows(), strict=True))
        return embeddings

    def tokens_of(self, texts: Sequence[str]) -> "TextTokens":
        """Of the texts, in the order given; those that were not embedded yet are now."""
        from sightline.encoders.tokens import padded_tokens

        missing = [text for text in dict.fromkeys(texts) if text not in self._tokens_by_text]
        if missing:
            self.embed_texts(missing)
        return padded_tokens([self._tokens_by_text[text] for text in texts], width=self._encoder.text_token_dim)


class QueryPictures:
    """Pictures of one query, which go through the encoder once, for the similarity and for the second look alike."""

    def __init__(self, encoder: "TokenEncoder", *, max_pixels: int) -> None:
        self._encoder = encoder
        self._max_pixels = max_pixels
        self._tokens_by_picture: dict[int, ImageTokens] = {}  # by the picture's identity: what is equal may be read twice
        self.picture_s = 0.0
        """Seconds that the network took for one, whose decoding is not done twice."""

    def embed(self, pictures: Sequence[Picture]) -> list[EmbeddedPart]:
        """As `embed_pictures`, one by one: each has a grid of its own where pictures keep their shapes."""
        parts = []
        for picture in pictures:
            pixels = prepared_pictures([picture], encoder=self._encoder, max_pixels=self._max_pixels)
            began = time.perf_counter()
            embeddings, self._tokens_by_picture[id(picture)] = self._encoder.embed_pixels_with_tokens(pixels)
            self.picture_s = time.perf_counter() - began
            parts.append(EmbeddedPart(embeddings[0], Modality.IMAGE, picture.weight))
        return parts

    def tokens_of(self, picture: Picture) -> "ImageTokens":
        """Of one picture; it is embedded now if it was not yet."""
        if id(picture) not in self._tokens_by_picture:
            self.embed([picture])
        return self._tokens_by_picture[id(picture)]


def checked_embeddings(embeddings: Embeddings, encoder: Encoder) -> Embeddings:
    """The embeddings themselves; raises `InvalidCheckpoint` where one is no number, since no order could be made of it."""
    num_bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
    if num_bad:
        raise InvalidCheckpoint(
            f"{encoder.name} gave {num_bad:,} of {len(embeddings):,} embeddings that are no numbers; its weights are damaged"
        )
    return embeddings


def embed_words(words: Sequence[Words], *, encoder: TextEmbedder) -> list[EmbeddedPart]:
    """Texts in the order given, in one pass through the text encoder."""
    if not words:
        return []
    embeddings = encoder.embed_texts([part.text for part in words])
    return [EmbeddedPart(embedding, Modality.TEXT, part.weight) for part, embedding in zip(words, embeddings, strict=True)]


def embed_pictures(pictures: Sequence[Picture], *, encoder: Encoder, max_pixels: int) -> list[EmbeddedPart]:
    """Pictures in the order given; raises `UnreadableImage`, or `ImageTooLarge` above `max_pixels`."""
    if not pictures:
        return []
    embeddings = encoder.embed_pixels(prepared_pictures(pictures, encoder=encoder, max_pixels=max_pixels))
    return [EmbeddedPart(embedding, Modality.IMAGE, part.weight) for part, embedding in zip(pictures, embeddings, strict=True)]


def prepared_pictures(pictures: Sequence[Picture], *, encoder: Encoder, max_pixels: int) -> NDArray[Any]:
    """(pictures, *prepared shape), in the order given; raises `UnreadableImage`, or `ImageTooLarge` above `max_pixels`."""
    decoded = [decoded_picture(part, max_pixels=max_pixels, target_side=encoder.image_side) for part in pictures]
    return np.stack([encoder.prepare(image) for image in decoded])


def decoded_picture(part: Picture, *, max_pixels: int, target_side: int | None) -> Image.Image:
    """Upright RGB; the picture itself where it came decoded. Parameters and errors are those of `decode_image`."""
    if isinstance(part.source, Image.Image):
        return part.source
    return decode_image(part.source, name=part.name, max_pixels=max_pixels, target_side=target_side).image


def embed_given(part: GivenEmbedding, *, embedding_dim: int) -> EmbeddedPart:
    """The part as a point of a space of that width; raises `InvalidQuery` where it is none."""
    if len(part.embedding) != embedding_dim:
        raise InvalidQuery(f"the embedding has {len(part.embedding)} numbers, and those of the collection have {embedding_dim}")
    return EmbeddedPart(part.embedding.astype(np.float32, copy=False), part.modality, part.weight)


def check_pictures(pictures: Sequence[Picture]) -> None:
    """Raises `UnreadableImage` for the first one whose file is none or cannot be opened, before a network is loaded for it."""
    for part in pictures:
        if isinstance(part.source, Path):
            try:
                part.source.open("rb").close()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise UnreadableImage(part.name, reason="there is no such file") from error
            except IsADirectoryError as error:
                raise UnreadableImage(part.name, reason="it is a folder; name one picture in it") from error
            except OSError as error:
                raise UnreadableImage(part.name, reason=f"it cannot be opened: {error.strerror}") from error


def combine(parts: Sequence[EmbeddedPart], *, centre_by_modality: Mapping[Modality, NDArray[np.float32]] | None = None) -> Embeddings:
    """The weighted sum of the parts, of unit length: (1, embedding_dim).

    With centres, each part is moved by its own modality's centre and brought back to unit length before it is weighed.
    Raises `InvalidQuery` when the parts cancel out, `InvalidCheckpoint` where one is no number: nothing would be near it.
    """
    if any(np.isnan(part.embedding).any() for part in parts):
        raise InvalidCheckpoint("the encoder gave an embedding of the query that is no number; its weights are damaged")
    total = np.zeros_like(parts[0].embedding)
    for part in parts:
        embedding = part.embedding[np.newaxis]  # (1, dim)
        if centre_by_modality is not None:
            embedding = centred(embedding, centre=centre_by_modality[part.modality])
        total += np.float32(part.weight) * embedding[0]
    norm = float(np.linalg.norm(total))
    if norm < MIN_NORM:
        raise InvalidQuery("the parts of the query cancel out; give what you look for more weight than what you want to avoid")
    return np.ascontiguousarray(total[np.newaxis] / np.float32(norm))


def centred(embeddings: Embeddings, *, centre: NDArray[np.float32]) -> Embeddings:
    """(rows, dim) moved by `centre` (dim,) and brought back to unit length; a row equal to the centre becomes zeros."""
    moved = embeddings - centre
    norms = np.linalg.norm(moved, axis=1, keepdims=True)  # (rows, 1)
    return np.ascontiguousarray(np.where(norms < MIN_NORM, 0.0, moved / np.maximum(norms, MIN_NORM)), dtype=np.float32)
