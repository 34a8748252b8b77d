"""A checkpoint of ours as an `Encoder`: sightline-mini, and whatever `sightline train` wrote."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from sightline.encoders.checkpoint import OpenCheckpoint, open_checkpoint
from sightline.encoders.device import autocast_dtype, choose_device
from sightline.encoders.dual_encoder import DualEncoder, TextSide
from sightline.encoders.fused_convolution import fuse_convolutions
from sightline.encoders.packed_linear import pack_linear_layers
from sightline.encoders.query_bank import QueryBank
from sightline.encoders.ragged_bert import RaggedBert, is_plain_bert
from sightline.encoders.tokens import ImageTokens, SeenBox, Span, TextTokens, TokenRow, padded_tokens
from sightline.types import Embeddings, Modality

TEXTS_PER_BATCH = 256

Network = TypeVar("Network", bound=TextSide)


class ComposedEncoder:
    """An image backbone and a text backbone with trained projections; see `dual_encoder`.

    Each side is built when it is first asked for: importing timm and building the image backbone takes half a second, which a
    search by words can spare. Methods may be called by several threads.
    """

    def __init__(self, name: str, checkpoint: OpenCheckpoint, *, device: torch.device) -> None:
        self.name = name
        self.fingerprint = checkpoint.fingerprint
        self.embedding_dim = checkpoint.config.embedding_dim
        self.image_side = checkpoint.config.image.image_side
        self.image_token_dim = checkpoint.config.image_token_dim
        self.text_token_dim = checkpoint.config.text_width
        self._checkpoint = checkpoint
        self._text_input = checkpoint.text_input
        self._device = device
        self._autocast_dtype = autocast_dtype(device)
        self._loading = threading.Lock()
        self._loaded_text_side: TextSide | None = None
        self._loaded_model: DualEncoder | None = None

    @cached_property
    def query_banks(self) -> Mapping[Modality, QueryBank]:
        """The banks beside the weights, by the modality of the items that they are for; read when they are first asked for."""
        return self._checkpoint.load_query_banks()

    def load(self, modality: Modality) -> None:
        """Builds the text side alone for texts, the whole network for pictures."""
        match modality:
            case Modality.TEXT:
                self._text_side()
            case Modality.IMAGE:
                self._model()

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """The whole picture squashed to a square: uint8 (image_side, image_side, 3)."""
        return squashed_pixels(image, side=self.image_side)

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        """uint8 (batch, image_side, image_side, 3) -> (batch, embedding_dim)."""
        with torch.inference_mode(), self._autocast():
            # `W`: what `prepare` gives may be a read-only view of Pillow's memory, which torch takes with a warning.
            tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
            embeddings = self._model().embed_pixels(tensor.to(self._device))
        return _as_rows(embeddings)

    def embed_pixels_with_tokens(self, pixels: NDArray[Any]) -> tuple[Embeddings, ImageTokens]:
        """What `embed_pixels` gives, and the tokens of every map that it pools, on the grid of the last."""
        with torch.inference_mode(), self._autocast():
            tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
            embeddings, tokens = self._model().embed_pixels_with_tokens(tensor.to(self._device))
        batch, rows, columns, width = tokens.shape
        hidden_states = _as_rows(tokens).reshape(batch, rows * columns, width)
        return _as_rows(embeddings), ImageTokens(hidden_states, np.tile(np.array([rows, columns]), (batch, 1)), pixels)

    def squares(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
        """What was prepared, as it is."""
        return pixels

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """(len(texts), embedding_dim); texts of like length share a batch, so that little is padded."""
        embeddings = np.empty((len(texts), self.embedding_dim), dtype=np.float32)
        for positions, embedded, _ in self._embedded_batches(texts):
            embeddings[positions] = embedded
        return embeddings

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> tuple[Embeddings, TextTokens]:
        """What `embed_texts` gives, and the hidden states of the text backbone's last layer."""
        embeddings = np.empty((len(texts), self.embedding_dim), dtype=np.float32)
        row_by_position: dict[int, TokenRow] = {}
        for positions, embedded, rows in self._embedded_batches(texts):
            embeddings[positions] = embedded
            row_by_position |= dict(zip(positions, rows, strict=True))
        return embeddings, padded_tokens([row_by_position[position] for position in range(len(texts))], width=self.text_token_dim)

    def _embedded_batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Embeddings, list[TokenRow]]]:
        """(positions of texts of like length, their embeddings, their tokens)."""
        ids_by_text = self._text_input.token_ids(texts)
        text_side = self._text_side()
        for positions, tokens in self._text_input.batches_by_length(ids_by_text, texts_per_batch=TEXTS_PER_BATCH):
            with torch.inference_mode(), self._autocast():
                mask = torch.from_numpy(tokens.attention_mask).to(self._device)
                hidden = text_side.text_hidden_states(torch.from_numpy(tokens.token_ids).to(self._device), mask)
                embeddings = text_side.embed_hidden_states(hidden, mask)
            own_ids = [np.array(ids_by_text[position], dtype=np.int64) for position in positions]
            rows = [TokenRow(row[: len(ids)], ids) for ids, row in zip(own_ids, _as_rows(hidden), strict=True)]
            yield list(positions), _as_rows(embeddings), rows

    def token_spans(self, text: str) -> list[Span | None]:
        """Of each token of the text: the characters that it stands for; None for the marks around a text."""
        return self._text_input.token_spans(text)

    def seen_box(self, width: int, height: int) -> SeenBox:
        """All of the picture: it is squashed, and nothing cut away."""
        return SeenBox(0, 0, width, height)

    def is_truncated(self, text: str) -> bool:
        """Whether the network reads only the beginning of the text."""
        return self._text_input.is_truncated(text)

    def _text_side(self) -> TextSide:
        """The whole model's where that is loaded."""
        with self._loading:
            if self._loaded_text_side is None:
                self._loaded_text_side = self._as_computed(self._checkpoint.load_text_side().to(self._device))
            return self._loaded_text_side

    def _model(self) -> DualEncoder:
        with self._loading:
            if self._loaded_model is None:
                model = self._checkpoint.load_model()
                model = model.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                self._loaded_model = self._as_computed(model)
                self._loaded_text_side = self._loaded_model
            return self._loaded_model

    def _as_computed(self, network: Network) -> Network:
        """The same network with its linear layers in the type that they are computed in, packed on a CPU.

        The numbers that come out are the same. Autocast would cast every weight at every call: one text took 11.9 ms of processor time
        so, and took 8.9 with the weights cast once; packed as well it takes less by a tenth to a quarter (`benchmarks.text_encoding`).
        """
        if self._autocast_dtype is not None:
            for module in network.modules():
                if isinstance(module, nn.Linear):
                    module.to(self._autocast_dtype)
        if self._device.type == "cpu":
            computed_in = self._autocast_dtype or torch.float32
            if is_plain_bert(network.text, computed_in):
                network.text = RaggedBert(network.text)
            pack_linear_layers(network, computed_in)
            if computed_in is torch.float32:
                fuse_convolutions(network)
        return network

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=self._autocast_dtype, enabled=self._autocast_dtype is not None)


def load_composed_encoder(folder: Path, *, name: str, device: str) -> ComposedEncoder:
    """The encoder of a checkpoint folder; raises `InvalidCheckpoint` as `open_checkpoint` does."""
    return ComposedEncoder(name, open_checkpoint(folder), device=choose_device(device))


def squashed_pixels(image: Image.Image, *, side: int) -> NDArray[np.uint8]:
    """The whole RGB picture resized to uint8 (side, side, 3), without regard to its shape.

    Squashing keeps what a centre crop would lose at the edges, and a grid over the squashed picture maps back onto the whole one.
    """
    resized = image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(resized, dtype=np.uint8)


def _as_rows(embeddings: torch.Tensor) -> Embeddings:
    return np.ascontiguousarray(embeddings.float().cpu().numpy())
