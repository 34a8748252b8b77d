"""Any CLIP, SigLIP or SigLIP 2 model of the Hugging Face hub as an `Encoder`, through transformers' own classes.

CLIP: Radford et al. 2021. SigLIP: Zhai et al. 2023. SigLIP 2: Tschannen et al. 2025; its checkpoints of one resolution are SigLIP networks
(`model_type` siglip), those of any resolution (NaFlex) are siglip2. Where we differ from transformers: CLIP's texts are not padded to the
full length (exact, see `hub_texts`), and SigLIP 2's texts are always put in lower case, as they were in training.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, PreTrainedTokenizerBase, Siglip2Model, SiglipModel

from sightline.encoders.device import choose_device
from sightline.encoders.hub_files import ENCODER, HubAccess, ModelFiles, find_model
from sightline.encoders.hub_fingerprint import model_fingerprint
from sightline.encoders.hub_images import ImageInput, PatchedImages, SquareImages
from sightline.encoders.hub_network import load_network, model_type, naming
from sightline.encoders.hub_texts import CausalTexts, PaddedTexts, TextInput, Tokenizer
from sightline.encoders.query_bank import QueryBank
from sightline.encoders.tokens import ImageTokens, SeenBox, Span, TextTokens, TokenRow, padded_tokens
from sightline.errors import EncoderUnavailable, InvalidCheckpoint
from sightline.types import Embeddings, Modality

logger = logging.getLogger(__name__)

IMAGES_PER_BATCH = 256
"""Images of one forward pass at most, whatever the caller stacks: 600 MB of activations in a ViT-L at 224 pixels, float32."""

HubModel = CLIPModel | SiglipModel | Siglip2Model
MODEL_CLASS_BY_TYPE: dict[str, type[HubModel]] = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}


class HubEncoder:
    """Embeds pictures and texts with a dual encoder from the hub. Thread-safe."""

    def __init__(self, name: str, *, fingerprint: str, model: HubModel, image_input: ImageInput, text_input: TextInput) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.embedding_dim = _embedding_dim(model)
        self.image_token_dim, self.text_token_dim = _token_dims(model)
        self.image_side = image_input.image_side
        self.query_banks: Mapping[Modality, QueryBank] = {}  # models of the hub come without; `sightline hubness` makes one
        self._model = model
        self._image_input = image_input
        self._text_input = text_input

    def load(self, modality: Modality) -> None:
        """Nothing: it is built whole, and both sides have embedded something, before anybody gets it."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """An RGB picture resized as the model's own processor does; see `hub_images` for shape and dtype."""
        return self._image_input.prepare(image)

    def embed_pixels(self, pixels: NDArray[Any]) -> Embeddings:
        """(batch, *prepared shape) -> (batch, embedding_dim)."""
        embeddings = np.empty((len(pixels), self.embedding_dim), dtype=np.float32)
        for rows in _chunks(len(pixels)):
            embeddings[rows] = _unit_rows(self._image_outputs(pixels[rows]).pooler_output)
        return embeddings

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """(len(texts), embedding_dim), in the order given; longer texts are truncated to what the network reads."""
        embeddings = np.empty((len(texts), self.embedding_dim), dtype=np.float32)
        for batch in self._text_input.batches(texts):
            embeddings[batch.positions] = _unit_rows(self._text_outputs(batch.inputs).pooler_output)
        return embeddings

    def is_truncated(self, text: str) -> bool:
        """Whether the network reads only the beginning of the text."""
        return self._text_input.is_truncated(text)

    def embed_pixels_with_tokens(self, pixels: NDArray[Any]) -> tuple[Embeddings, ImageTokens]:
        """What `embed_pixels` gives, and the patches as the network's last layer leaves them; without CLIP's class token."""
        first_patch = int(isinstance(self._model, CLIPModel))
        embeddings: list[Embeddings] = []
        hidden: list[NDArray[np.float32]] = []
        for rows in _chunks(len(pixels)):
            outputs = self._image_outputs(pixels[rows])
            embeddings.append(_unit_rows(outputs.pooler_output))
            hidden.append(_as_float32(outputs.last_hidden_state[:, first_patch:]))
        return np.concatenate(embeddings), ImageTokens(np.concatenate(hidden), self._image_input.grid(pixels), self.squares(pixels))

    def squares(self, pixels: NDArray[Any]) -> NDArray[np.uint8] | None:
        """What was prepared, with the colours last; None for NaFlex, whose pictures keep their shapes."""
        return self._image_input.squares(pixels)

    def embed_texts_with_tokens(self, texts: Sequence[str]) -> tuple[Embeddings, TextTokens]:
        """What `embed_texts` gives, and the tokens of each text before pooling."""
        embeddings = np.empty((len(texts), self.embedding_dim), dtype=np.float32)
        row_by_position: dict[int, TokenRow] = {}
        for batch in self._text_input.batches(texts):
            outputs = self._text_outputs(batch.inputs)
            embeddings[batch.positions] = _unit_rows(outputs.pooler_output)
            hidden = _as_float32(outputs.last_hidden_state)
            token_ids = batch.inputs["input_ids"].cpu().numpy().astype(np.int64)
            for position, row, ids, length in zip(batch.positions, hidden, token_ids, batch.num_tokens, strict=True):
                row_by_position[position] = TokenRow(row[:length], ids[:length])
        return embeddings, padded_tokens([row_by_position[position] for position in range(len(texts))], width=self.text_token_dim)

    def token_spans(self, text: str) -> list[Span | None]:
        """Of each token of the text: the characters that it stands for; None for special tokens and padding."""
        return self._text_input.token_spans(text)

    def seen_box(self, width: int, height: int) -> SeenBox:
        """The whole picture, or the middle that the processor crops."""
        return self._image_input.seen_box(width, height)

    @torch.inference_mode()
    def _image_outputs(self, pixels: NDArray[Any]) -> Any:
        return self._model.get_image_features(**self._image_input.model_inputs(pixels, device=self._model.device))

    @torch.inference_mode()
    def _text_outputs(self, inputs: dict[str, Tensor]) -> Any:
        return self._model.get_text_features(**{name: tensor.to(self._model.device) for name, tensor in inputs.items()})


def load_hub_encoder(spec: str, *, device: str = "auto", hub: HubAccess | None = None) -> HubEncoder:
    """The encoder of a Hugging Face model, by hub id (`openai/clip-vit-base-patch32`) or folder.

    Weights are bfloat16 or float16 on CUDA and float32 elsewhere. `hub` is by default what the environment says. Raises
    `InvalidSetting` for a device that is not there, `EncoderUnavailable` for a model that cannot be had or is of another kind,
    `InvalidCheckpoint` (a kind of `EncoderUnavailable`) for files that are damaged, incomplete or do not fit together.
    """
    chosen = choose_device(device)
    files = find_model(spec, hub=hub or HubAccess.from_environment())
    model_class = _model_class(files)
    with naming(files, kind=ENCODER):
        encoder = _build(files, model_class, device=chosen)
    logger.info("encoder %s loaded on %s, %d dimensions", encoder.name, chosen, encoder.embedding_dim)
    return encoder


def _build(files: ModelFiles, model_class: type[HubModel], *, device: torch.device) -> HubEncoder:
    model: HubModel = load_network(model_class, files, device=device)
    encoder = HubEncoder(
        files.name,
        fingerprint=model_fingerprint(files),
        model=model,
        image_input=_load_image_input(files, model),
        text_input=_load_text_input(files, model),
    )
    _prove(encoder)
    return encoder


def _model_class(files: ModelFiles) -> type[HubModel]:
    found = model_type(files, kind=ENCODER)
    if found not in MODEL_CLASS_BY_TYPE:
        raise EncoderUnavailable(
            f"encoder {files.name!r} is a {found!r} network; Sightline runs the types {', '.join(MODEL_CLASS_BY_TYPE)} "
            "(CLIP, SigLIP and SigLIP 2), its own checkpoints, and pairs of an image and a text backbone that `sightline train` joins"
        )
    return MODEL_CLASS_BY_TYPE[found]


def _load_image_input(files: ModelFiles, model: HubModel) -> ImageInput:
    processor = AutoImageProcessor.from_pretrained(files.folder, local_files_only=True, backend="torchvision")  # type: ignore[no-untyped-call]
    vision: Any = model.config.vision_config
    match model:
        case Siglip2Model():
            return PatchedImages(processor)
        case CLIPModel() | SiglipModel():
            return SquareImages(processor, image_side=vision.image_size, patch_side=vision.patch_size)
        case _:
            assert_never(model)


def _load_text_input(files: ModelFiles, model: HubModel) -> TextInput:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    text: Any = model.config.text_config
    max_tokens = min(text.max_position_embeddings, loaded.model_max_length)
    match model:
        case CLIPModel():
            return CausalTexts(Tokenizer(loaded, max_tokens=max_tokens), eos_token_id=text.eos_token_id)
        case SiglipModel() | Siglip2Model():
            return PaddedTexts(Tokenizer(loaded, max_tokens=max_tokens, is_lowercased=_knows_lower_case_only(loaded)))
        case _:
            assert_never(model)


def _knows_lower_case_only(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether this is SigLIP 2's tokeniser: Gemma's, which keeps capitals, for a network that was trained on lower case only."""
    return type(tokenizer).__name__.startswith("Gemma")


def _prove(encoder: HubEncoder) -> None:
    """One picture and one text go through, so that what does not fit together is found now and not during a run."""
    pixels = encoder.prepare(Image.new("RGB", (encoder.image_side, encoder.image_side)))
    for kind, embeddings in (("picture", encoder.embed_pixels(np.stack([pixels]))), ("text", encoder.embed_texts(["a photo"]))):
        if not np.isfinite(embeddings).all():
            raise InvalidCheckpoint(f"its embedding of a {kind} is not a number; are the weights damaged?")


def _embedding_dim(model: HubModel) -> int:
    config: Any = model.config
    dim = config.projection_dim if isinstance(model, CLIPModel) else config.vision_config.hidden_size
    return int(dim)


def _token_dims(model: HubModel) -> tuple[int, int]:
    config: Any = model.config
    return int(config.vision_config.hidden_size), int(config.text_config.hidden_size)


def _chunks(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, IMAGES_PER_BATCH):
        yield slice(start, start + IMAGES_PER_BATCH)


def _unit_rows(pooled: Tensor) -> Embeddings:
    return _as_float32(functional.normalize(pooled.float(), dim=-1))


def _as_float32(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.float().cpu().numpy())
