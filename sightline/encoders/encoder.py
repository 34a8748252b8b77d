"""The interface behind which every dual encoder stands, whatever its networks are.

Two stages, because they run in different places: `prepare` (pixels of one picture, on a decoding thread) and `embed_*`
(a batch through a network, on the device). The three implementations are `composed.ComposedEncoder` (sightline-mini and
everything that `sightline train` writes) and `hub_encoder.HubEncoder` (CLIP, SigLIP, SigLIP 2).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray
from PIL import Image

from sightline.encoders.query_bank import QueryBank
from sightline.types import Embeddings, Modality


class Encoder(Protocol):
    """Embeds pictures and texts into one space."""

    @property
    def name(self) -> str:
        """What a person calls it and a collection remembers: `sightline-mini`, a hub id or a folder."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of card and weights; equal fingerprints give equal embeddings up to rounding."""

    @property
    def embedding_dim(self) -> int:
        """Width of the shared space."""

    @property
    def image_side(self) -> int:
        """Side in pixels that the network reads; a decoder need not keep more than twice that."""

    @property
    def query_banks(self) -> Mapping[Modality, QueryBank]:
        """What hubness biases of new collections are taken from, by the modality of the items that it is for; no part of the fingerprint.

        Raises `InvalidCheckpoint` for one that is damaged.
        """

    def load(self, modality: Modality) -> None:
        """Builds what embeds that modality, now instead of when it is first asked to; once it is there, nothing. Thread-safe.

        Seconds that whoever measures a query does not count to it. Raises `InvalidCheckpoint` for weights that are damaged.
        """

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """An RGB picture as the array that `embed_pixels` stacks; always one shape and dtype. Thread-safe."""

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        """(batch, *prepared shape) -> (batch, embedding_dim)."""

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """(len(texts), embedding_dim), in the order given; longer texts are truncated to what the network reads."""

    def is_truncated(self, text: str) -> bool:
        """Whether the network reads only the beginning of the text."""
