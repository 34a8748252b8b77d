"""How relevant documents of any kind, texts and pictures, are for words: numbers from 0 to 1, for documents that are in no collection.

A picture's is the match probability where a fusion encoder is there. A text's, and a picture's without one, is its similarity moved from
[-1, 1] to [0, 1], which orders well and is no probability: the two kinds are ordered within themselves, and beside each other only roughly.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.embed import decoded_picture, prepared_pictures
from search.query import Picture, Words
from search.readers import evidence_of, reader_of_patches
from sightline.encoders.encoder import Encoder
from sightline.types import Embeddings, Modality

if TYPE_CHECKING:  # they import torch
    from sightline.encoders.blip_matcher import BlipMatcher, KeyedPicture
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

TEXTS_AT_ONCE = 64
PICTURES_AT_ONCE = 16
"""In one pass of a network, so that memory does not grow with what is sent."""


def embedded_texts(texts: Sequence[str], *, encoder: Encoder) -> Embeddings:
    """(texts, embedding_dim), a pass for every 64 of them."""
    encoder.load(Modality.TEXT)
    chunks = [encoder.embed_texts(texts[start : start + TEXTS_AT_ONCE]) for start in range(0, len(texts), TEXTS_AT_ONCE)]
    return np.concatenate([np.empty((0, encoder.embedding_dim), dtype=np.float32), *chunks])


def embedded_pictures(pictures: Sequence[Picture], *, encoder: Encoder, max_pixels: int) -> Embeddings:
    """(pictures, embedding_dim), a pass for every 16 of them. Raises `UnreadableImage`."""
    encoder.load(Modality.IMAGE)
    chunks = [
        encoder.embed_pixels(prepared_pictures(pictures[start : start + PICTURES_AT_ONCE], encoder=encoder, max_pixels=max_pixels))
        for start in range(0, len(pictures), PICTURES_AT_ONCE)
    ]
    return np.concatenate([np.empty((0, encoder.embedding_dim), dtype=np.float32), *chunks])


def relevance_of(
    words: Words,
    documents: Sequence[Words | Picture],
    *,
    encoder: Encoder,
    matcher: "FusionMatcher | BlipMatcher | None",
    max_pixels: int,
) -> NDArray[np.float64]:
    """(documents,), each in [0, 1]. Raises `UnreadableImage`."""
    relevance = np.zeros(len(documents))
    texts = [(place, each.text) for place, each in enumerate(documents) if isinstance(each, Words)]
    pictures = [(place, each) for place, each in enumerate(documents) if isinstance(each, Picture)]
    asked = embedded_texts([words.text], encoder=encoder)[0]
    if texts:
        relevance[[place for place, _ in texts]] = _in_unit(embedded_texts([text for _, text in texts], encoder=encoder) @ asked)
    for start in range(0, len(pictures), PICTURES_AT_ONCE):
        chunk = pictures[start : start + PICTURES_AT_ONCE]
        found = _of_pictures(words, [each for _, each in chunk], asked, encoder=encoder, matcher=matcher, max_pixels=max_pixels)
        relevance[[place for place, _ in chunk]] = found
    return relevance


def _of_pictures(
    words: Words,
    pictures: Sequence[Picture],
    asked: NDArray[np.float32],
    *,
    encoder: Encoder,
    matcher: "FusionMatcher | BlipMatcher | None",
    max_pixels: int,
) -> NDArray[np.float64]:
    if matcher is None:
        return _in_unit(embedded_pictures(pictures, encoder=encoder, max_pixels=max_pixels) @ asked)
    by_patches = reader_of_patches(matcher)
    if by_patches is None:
        keyed = [_keyed(each, max_pixels=max_pixels) for each in pictures]
        logits = cast("BlipMatcher", matcher).match_logits([words.text], keyed)[0]  # (pictures,)
    else:
        tokens_of = cast("TokenEncoder", encoder)
        encoder.load(Modality.IMAGE)
        pixels = prepared_pictures(pictures, encoder=encoder, max_pixels=max_pixels)
        patches = by_patches.project(tokens_of.embed_pixels_with_tokens(pixels)[1])
        texts = tokens_of.embed_texts_with_tokens([words.text])[1]
        logits = by_patches.match_logits(texts, patches)[0]  # (pictures,)
        return by_patches.calibration.probabilities(logits, evidence_of(texts.num_tokens)[0]).astype(np.float64)
    return matcher.calibration.probabilities(logits).astype(np.float64)


def _keyed(picture: Picture, *, max_pixels: int) -> "KeyedPicture":
    from sightline.encoders.blip_matcher import KeyedPicture

    image: Image.Image = decoded_picture(picture, max_pixels=max_pixels, target_side=None)
    return KeyedPicture(hashlib.sha256(image.tobytes()).hexdigest(), lambda: image)


def _in_unit(similarities: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.clip((1 + similarities.astype(np.float64)) / 2, 0, 1)
