"""BLIP's fusion encoder as second stage: any image-text matching checkpoint of the Hugging Face hub, through transformers' own classes.

BLIP: Li et al. 2022. It reads the pictures themselves with an image encoder of its own, so it fits the candidates of any dual encoder, and
costs that encoder's pass for each picture that it has not met lately. The arithmetic is that of `BlipForImageTextRetrieval.forward` with
its matching head, cut in two: what the image encoder gives is kept, and every text is read against it. As in that forward, a text begins
with its tokeniser's [CLS], where the authors' evaluation puts their token [ENC] instead (huggingface/transformers issue 25629).
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval, PreTrainedTokenizerBase

from sightline.encoders.device import choose_device
from sightline.encoders.hub_files import PICTURE_MATCHER, HubAccess, ModelFiles, find_model
from sightline.encoders.hub_fingerprint import model_fingerprint
from sightline.encoders.hub_images import SquareImages
from sightline.encoders.hub_network import load_network, model_type, naming
from sightline.encoders.hub_texts import Tokenizer, right_padded
from sightline.encoders.matcher import Calibration, Combination
from sightline.errors import EncoderUnavailable, InvalidCheckpoint

logger = logging.getLogger(__name__)

PICTURES_PER_BATCH = 8
"""Pictures of one pass of the image encoder: at 384 pixels each has 577 tokens, and the attention of 8 takes 128 MB a matrix in float32."""

PAIRS_PER_BATCH = 32
"""Pairs of one pass of the text encoder: each brings its picture's states with their keys and values, 5 MB in BLIP's base size, float32."""

TEXT_TOKENS_PER_BATCH = 2_048
"""Text tokens of one such pass, padding included: their attention to 577 picture tokens takes 57 MB a matrix in float32."""

STATE_CACHE_BYTES = 256_000_000
"""Of hidden states of pictures: 144 pictures of BLIP's base size in float32, 288 in half precision; over two searches of 64 candidates."""

COMBINATION = Combination(text_to_image=1.0, image_to_text=1.0)
"""Match logit plus similarity, as the authors' evaluation orders candidates (`train_retrieval.py` in salesforce/BLIP), there with the
head's second output alone for a logit. Cosines differ by 2 at most, and those of a query's first candidates by much less, so the match
logit decides and the similarity parts near-ties. Not fitted on validation pictures, as the weights of our own fusion encoders are."""

_MODEL_TYPE = "blip"
_EXAMPLE = "Salesforce/blip-itm-base-coco"


@dataclass(frozen=True, slots=True)
class KeyedPicture:
    """A picture that is opened only where its states are not at hand."""

    cache_key: str  # another one whenever the pixels are others: a content hash, or an item with its revision
    open: Callable[[], Image.Image]  # gives it in RGB


class RecentStates:
    """Hidden states of the pictures that were asked for last, up to a number of bytes. Thread-safe."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._states_by_key: OrderedDict[str, Tensor] = OrderedDict()  # the latest last
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Of all states that it holds."""
        return self._size_bytes

    def get(self, cache_key: str) -> Tensor | None:
        """What was kept under the key; None where nothing was, or no longer is."""
        with self._lock:
            if cache_key not in self._states_by_key:
                return None
            self._states_by_key.move_to_end(cache_key)
            return self._states_by_key[cache_key]

    def keep(self, cache_key: str, states: Tensor) -> None:
        """Drops what was asked for longest ago, as far as the bound demands; what exceeds it alone is not kept."""
        if states.nbytes > self._max_bytes:
            return
        with self._lock:
            former = self._states_by_key.pop(cache_key, None)
            self._size_bytes += states.nbytes - (0 if former is None else former.nbytes)
            self._states_by_key[cache_key] = states
            while self._size_bytes > self._max_bytes:
                self._size_bytes -= self._states_by_key.popitem(last=False)[1].nbytes


class BlipMatcher:
    """Match logits of texts and pictures by BLIP. Thread-safe; two threads that miss the same picture at once both read it.

    A logit is that of a match less that of none, so that its sigmoid is the softmax of the network's own two outputs, and the calibration
    the identity.
    """

    def __init__(
        self,
        name: str,
        *,
        fingerprint: str,
        model: BlipForImageTextRetrieval,
        image_input: SquareImages,
        tokenizer: Tokenizer,
        recent_states: RecentStates,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.combination = COMBINATION
        self.calibration = Calibration(slope=1.0, intercept=0.0)
        self.pictures_at_once = PICTURES_PER_BATCH
        self._model = model
        self._image_input = image_input
        self._tokenizer = tokenizer
        self._recent_states = recent_states

    def match_logits(self, texts: Sequence[str], pictures: Sequence[KeyedPicture]) -> NDArray[np.float32]:
        """Every text with every picture: (texts, pictures); longer texts are truncated to what the network reads.

        A picture is opened, and passes the image encoder, once however many texts there are, and not at all while its states are kept.
        Activations do not grow with the number of either. Raises what a picture's `open` raises; what was read in the batches before it is
        kept as any other, so that asking again without it costs little more than its own batch.
        """
        logits = np.empty((len(texts), len(pictures)), dtype=np.float32)
        ids_by_text = self._tokenizer.ids(texts) if texts else []
        for start in range(0, len(pictures) if texts else 0, PICTURES_PER_BATCH):
            batch = pictures[start : start + PICTURES_PER_BATCH]
            states = self._states_of(batch)
            for rows, columns in _pair_batches([len(ids) for ids in ids_by_text], num_pictures=len(batch)):
                pair_logits = self._pair_logits([ids_by_text[row] for row in rows], states[columns])
                logits[rows, np.add(columns, start)] = pair_logits
        return logits

    def is_truncated(self, text: str) -> bool:
        """Whether the network reads only the beginning of the text."""
        return self._tokenizer.is_truncated(text)

    def _states_of(self, pictures: Sequence[KeyedPicture]) -> Tensor:
        """(pictures, tokens, width), tokens being the class token and the patches."""
        recent = {picture.cache_key: self._recent_states.get(picture.cache_key) for picture in pictures}
        states_by_key = {cache_key: states for cache_key, states in recent.items() if states is not None}
        unread = {picture.cache_key: picture for picture in pictures if picture.cache_key not in states_by_key}
        if unread:
            pixels = np.stack([self._image_input.prepare(picture.open()) for picture in unread.values()])
            for cache_key, states in zip(unread, self._read(pixels), strict=True):
                states_by_key[cache_key] = states.clone()  # a view would keep its whole batch in memory
                self._recent_states.keep(cache_key, states_by_key[cache_key])
        return torch.stack([states_by_key[picture.cache_key] for picture in pictures])

    @torch.inference_mode()
    def _read(self, pixels: NDArray[Any]) -> Tensor:
        """Prepared pictures (pictures, 3, side, side) -> (pictures, tokens, width)."""
        outputs = self._model.vision_model(**self._image_input.model_inputs(pixels, device=self._model.device))
        states: Tensor = outputs.last_hidden_state
        return states

    @torch.inference_mode()
    def _pair_logits(self, ids: Sequence[Sequence[int]], states: Tensor) -> NDArray[np.float32]:
        """Token ids of a text and the states of a picture for each pair -> (pairs,)."""
        token_ids = right_padded(ids)
        is_token = torch.arange(token_ids.shape[1]) < torch.tensor([[len(row)] for row in ids])  # (pairs, tokens)
        outputs = self._model.text_encoder(
            input_ids=token_ids.to(states.device),
            attention_mask=is_token.long().to(states.device),
            encoder_hidden_states=states,
        )
        scores = self._model.itm_head(outputs.last_hidden_state[:, 0].float())  # (pairs, 2): no match, match
        return np.asarray((scores[:, 1] - scores[:, 0]).cpu().numpy(), dtype=np.float32)


def load_blip_matcher(
    spec: str, *, device: str = "auto", hub: HubAccess | None = None, state_cache_bytes: int = STATE_CACHE_BYTES
) -> BlipMatcher:
    """BLIP for image-text matching, by hub id (`Salesforce/blip-itm-base-coco`) or folder.

    Weights are bfloat16 or float16 on CUDA and float32 elsewhere, and so are the states that are kept, on the device itself. `hub` is by
    default what the environment says. Raises `InvalidSetting` for a device that is not there, `EncoderUnavailable` for a model that cannot
    be had or is of another kind, `InvalidCheckpoint` (a kind of `EncoderUnavailable`) for files that are damaged, incomplete or do not fit
    together.
    """
    chosen = choose_device(device)
    files = find_model(spec, hub=hub or HubAccess.from_environment(), kind=PICTURE_MATCHER)
    found = model_type(files, kind=PICTURE_MATCHER)
    if found != _MODEL_TYPE:
        raise EncoderUnavailable(
            f"fusion encoder {files.name!r} is a {found!r} network; a pretrained one has to be a BLIP ({_MODEL_TYPE!r}) for image-text "
            f"matching, such as {_EXAMPLE}"
        )
    with naming(files, kind=PICTURE_MATCHER):
        matcher = _build(files, device=chosen, state_cache_bytes=state_cache_bytes)
    logger.info("fusion encoder %s loaded on %s", matcher.name, chosen)
    return matcher


def _build(files: ModelFiles, *, device: torch.device, state_cache_bytes: int) -> BlipMatcher:
    model = load_network(
        BlipForImageTextRetrieval,
        files,
        device=device,
        if_tensors_lack="is it half of a model, or a BLIP for captions or questions, which has no matching head?",
    )
    model.itm_head.float()  # in half precision logits of 5 are 0.03 apart, which would tie candidates
    matcher = BlipMatcher(
        files.name,
        fingerprint=model_fingerprint(files),
        model=model,
        image_input=_load_image_input(files, model),
        tokenizer=_load_tokenizer(files, model),
        recent_states=RecentStates(max_bytes=state_cache_bytes),
    )
    _prove(matcher)
    return matcher


def _load_image_input(files: ModelFiles, model: BlipForImageTextRetrieval) -> SquareImages:
    processor = AutoImageProcessor.from_pretrained(files.folder, local_files_only=True, backend="torchvision")  # type: ignore[no-untyped-call]
    vision: Any = model.config.vision_config
    return SquareImages(processor, image_side=vision.image_size, patch_side=vision.patch_size)


def _load_tokenizer(files: ModelFiles, model: BlipForImageTextRetrieval) -> Tokenizer:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    text: Any = model.config.text_config
    last_id = max(loaded.get_vocab().values())
    if last_id >= text.vocab_size:  # fewer is as it should be: BLIP's networks know two tokens more, which are no words
        raise InvalidCheckpoint(f"the tokeniser writes token {last_id} and the network has {text.vocab_size}; are they of one model?")
    return Tokenizer(loaded, max_tokens=min(text.max_position_embeddings, loaded.model_max_length))


def _prove(matcher: BlipMatcher) -> None:
    """One picture and one text go through, so that what does not fit together is found now and not in a search."""
    side = matcher._image_input.image_side
    states = matcher._read(np.stack([matcher._image_input.prepare(Image.new("RGB", (side, side)))]))
    if not np.isfinite(matcher._pair_logits(matcher._tokenizer.ids(["a photo"]), states)).all():
        raise InvalidCheckpoint("its match logit of a text and a picture is not a number; are the weights damaged?")


def _pair_batches(num_tokens_by_text: Sequence[int], *, num_pictures: int) -> Iterator[tuple[list[int], list[int]]]:
    """Rows and columns of the pairs of each pass, the longest texts first, so that a batch's first is its longest."""
    rows = sorted(range(len(num_tokens_by_text)), key=lambda row: -num_tokens_by_text[row])
    pairs = [(row, column) for row in rows for column in range(num_pictures)]
    start = 0
    while start < len(pairs):
        longest = num_tokens_by_text[pairs[start][0]]
        batch = pairs[start : start + max(1, min(PAIRS_PER_BATCH, TEXT_TOKENS_PER_BATCH // longest))]
        yield [row for row, _ in batch], [column for _, column in batch]
        start += len(batch)
