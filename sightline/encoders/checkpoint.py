"""A dual encoder on disk: `card.json`, `tokenizer.json` and weights as safetensors.

Weights are cut into files of at most 16 MB, because a release may hold no larger one; only a single larger tensor has a larger file.

Weights are fp16; the text network's matrices and the projections' first layers, which read standardised features, are int8 with a scale a
row: what bears rounding best (of sightline-mini, 5,000 captions keep a cosine of 0.9998 to themselves, and every hit rate to 0.1 points).
Never pickle. The fingerprint is a digest of configuration, tokeniser and weights: the card's free text (figures, credits) is not part
of it, so correcting a sentence does not make collections stale. Nor are the banks of queries that may lie beside the weights: a collection
keeps a copy of those that it was made with. The card names them, so that a bank never outlives the weights it was made for.
"""

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sightline.encoders.dual_encoder import DualEncoder, DualEncoderConfig, TextSide
from sightline.encoders.image_backbone import ImageBackbone, ImageBackboneConfig, build_image_backbone
from sightline.encoders.query_bank import QueryBank, bank_from_bytes
from sightline.encoders.text_input import TextInput
from sightline.errors import EncoderUnavailable, InvalidCheckpoint, InvalidInput
from sightline.types import JsonObject, Modality

CARD_NAME = "card.json"
TOKENIZER_NAME = "tokenizer.json"
FORMAT_VERSION = 2
MAX_FILE_BYTES = 15_500_000  # of tensors: below 16 MB with the header
BANK_NAMES = {Modality.IMAGE: "query_bank_texts.safetensors", Modality.TEXT: "query_bank_images.safetensors"}
"""By the modality of the items that a bank is for, whose queries are of the other one."""

_BANKS_FIELD = "query_banks"  # of the card: modality of the items -> fingerprint
_PROJECTION_SUFFIX = "_projection.hidden.weight"
_POSITIONS = "position_embeddings"  # added to every word: a row's error is in all of a text
_SCALE_SUFFIX = ".int8_scale"


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `load_checkpoint` finds in a folder."""

    model: DualEncoder
    text_input: TextInput
    fingerprint: str
    card: JsonObject


@dataclasses.dataclass(frozen=True, slots=True)
class OpenCheckpoint:
    """A checkpoint whose files are those of its card; its networks are built when they are asked for.

    A search by words builds the text side alone, and never imports timm.
    """

    folder: Path
    config: DualEncoderConfig
    text_input: TextInput
    fingerprint: str
    card: JsonObject

    def load_model(self) -> DualEncoder:
        """The whole network, on the CPU, in evaluation mode. Raises `InvalidCheckpoint`."""
        with _translated(self.folder):
            model = build_dual_encoder(self.config)
            model.load_state_dict(unpacked_rows(self._packed_weights()), strict=True)
        return model.eval()

    def load_text_side(self) -> TextSide:
        """The text side alone, on the CPU, in evaluation mode. Raises `InvalidCheckpoint`."""
        with _translated(self.folder):
            side = TextSide(self.config, text=build_text_backbone(self.config.text_config))
            side.load_state_dict(unpacked_rows(self._packed_weights(prefixes=("text.", "text_projection."))), strict=True)
        return side.eval()

    def load_query_banks(self) -> dict[Modality, QueryBank]:
        """The banks that the card names, by the modality of the items that they are for. Raises `InvalidCheckpoint`."""
        with _translated(self.folder):
            fingerprints = {Modality(modality): str(fingerprint) for modality, fingerprint in self.card.get(_BANKS_FIELD, {}).items()}
            banks = {modality: bank_from_bytes((self.folder / BANK_NAMES[modality]).read_bytes()) for modality in fingerprints}
        for modality, bank in banks.items():
            if bank.fingerprint != fingerprints[modality] or bank.embedding_dim != self.config.embedding_dim:
                raise InvalidCheckpoint(
                    f"{self.folder}: {BANK_NAMES[modality]} is not the bank of queries that {CARD_NAME} names; copy the checkpoint again"
                )
        return banks

    def _packed_weights(self, *, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
        packed: dict[str, Tensor] = {}
        for file_name in self.card["weights"]:
            with safe_open(self.folder / str(file_name), framework="pt") as file:
                packed |= {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefixes)}  # noqa: SIM118  # no mapping
        return packed


def build_dual_encoder(config: DualEncoderConfig) -> DualEncoder:
    """The networks that `config` describes, with random weights."""
    image = build_image_backbone(config.image)
    kept = kept_stages(build_image_backbone(config.image), num_frozen=config.num_frozen_stages) if config.has_kept_branch else None
    return DualEncoder(config, image=image, kept=kept, text=build_text_backbone(config.text_config))


def kept_stages(backbone: ImageBackbone, *, num_frozen: int) -> ImageBackbone:
    """The stages after the frozen ones, as a backbone of their own that reads the same maps."""
    return ImageBackbone(list(backbone.stages)[num_frozen:])


def build_text_backbone(text_config: Mapping[str, object]) -> nn.Module:
    """A transformers model of that configuration with random weights and no pooler of its own where it allows that."""
    from transformers import AutoConfig, AutoModel

    values = dict(text_config)
    config = AutoConfig.for_model(str(values.pop("model_type")), **values)
    try:
        model: nn.Module = AutoModel.from_config(config, add_pooling_layer=False)  # type: ignore[no-untyped-call]
    except TypeError:  # only BERT's relatives have one
        model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    return model


def save_checkpoint(folder: Path, *, model: DualEncoder, text_input: TextInput, notes: JsonObject) -> str:
    """Writes a checkpoint and gives its fingerprint.

    Files appear under temporary names and are renamed, the card last. A kill on the way leaves the former checkpoint, or files that
    are not those of its card, which `load_checkpoint` refuses. `notes` goes into the card as it is (figures, credits, licence). Banks of
    queries of a former checkpoint go: they were made for its weights (`save_query_banks` adds new ones).
    Raises `InvalidCheckpoint` for weights that are no numbers or too large for fp16, before anything is written.
    """
    shards = list(_shards(packed_rows(model.state_dict(), is_in_eight_bits=_bears_eight_bits)))
    names = [f"weights-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / TOKENIZER_NAME) as temporary:
        text_input.save(temporary)
    for name, shard in zip(names, shards, strict=True):
        with replacing(folder / name) as temporary:
            save_file(shard, temporary)
    config = dataclasses.asdict(model.config)
    fingerprint = _fingerprint(folder, config=config, weight_names=names)
    card = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "config": config, "weights": names}
    assert not card.keys() & notes.keys(), "notes beside the card's own fields, not instead of them"
    with replacing(folder / CARD_NAME) as temporary:
        temporary.write_text(json.dumps(card | notes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = {folder / name for name in names}
    for stale in {*folder.glob("weights-*.safetensors*"), *folder.glob("query_bank_*.safetensors*")} - kept:
        stale.unlink()
    return fingerprint


def save_query_banks(folder: Path, banks: Mapping[Modality, QueryBank]) -> None:
    """Lays banks beside the weights of a checkpoint, in the place of all that were there; its fingerprint stays.

    A kill on the way leaves the former banks, or such as are not those of the card, which `OpenCheckpoint.load_query_banks` refuses.
    Raises `InvalidCheckpoint` where the folder holds no checkpoint or a bank is of another width than its embeddings.
    """
    opened = open_checkpoint(folder)
    for modality, bank in banks.items():
        if bank.embedding_dim != opened.config.embedding_dim:
            raise InvalidCheckpoint(
                f"{folder}: a bank for {modality}s is {bank.embedding_dim} wide, embeddings {opened.config.embedding_dim}"
            )
        with replacing(folder / BANK_NAMES[modality]) as temporary:
            temporary.write_bytes(bank.to_bytes())
    card = opened.card | {_BANKS_FIELD: {str(modality): bank.fingerprint for modality, bank in banks.items()}}
    with replacing(folder / CARD_NAME) as temporary:
        temporary.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for modality in BANK_NAMES.keys() - banks.keys():
        (folder / BANK_NAMES[modality]).unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads a checkpoint, on the CPU, in evaluation mode. Raises `InvalidCheckpoint` as `open_checkpoint` does."""
    opened = open_checkpoint(folder)
    return Checkpoint(model=opened.load_model(), text_input=opened.text_input, fingerprint=opened.fingerprint, card=opened.card)


def open_checkpoint(folder: Path) -> OpenCheckpoint:
    """Compares a checkpoint's files with its card.

    Raises `InvalidCheckpoint` for a folder without a card, of another version, with a file missing or damaged, or whose weights are
    not those that the card was written for.
    """
    card = read_card(folder)
    with _translated(folder):
        names = [str(name) for name in card["weights"]]
        fingerprint = _fingerprint(folder, config=card["config"], weight_names=names)
        if fingerprint != card["fingerprint"]:
            raise InvalidCheckpoint(f"{folder}: its files are not those that {CARD_NAME} was written for; copy the checkpoint again")
        config = _config(card["config"])
    text_input = TextInput.from_file(folder / TOKENIZER_NAME, max_tokens=config.max_text_tokens)
    return OpenCheckpoint(folder=folder, config=config, text_input=text_input, fingerprint=fingerprint, card=card)


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except InvalidCheckpoint:
        raise
    except (
        EncoderUnavailable,
        InvalidInput,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        OSError,
        SafetensorError,
    ) as error:
        raise InvalidCheckpoint(f"{folder}: the checkpoint cannot be read: {error}") from error


def read_card(folder: Path) -> JsonObject:
    """The card as written; raises `InvalidCheckpoint` where there is none of this version."""
    try:
        card = json.loads((folder / CARD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidCheckpoint(f"{folder}: no {CARD_NAME} can be read there: {error}") from error
    version = card.get("format_version") if isinstance(card, dict) else None
    if version != FORMAT_VERSION:
        raise InvalidCheckpoint(f"{folder}: the checkpoint has format {version!r}; this Sightline reads format {FORMAT_VERSION}")
    return dict(card)


def _config(values: Mapping[str, Any]) -> DualEncoderConfig:
    image = dict(values["image"])
    image["pixel_mean"], image["pixel_std"] = tuple(image["pixel_mean"]), tuple(image["pixel_std"])
    return DualEncoderConfig(**{**values, "image": ImageBackboneConfig(**image)})


def packed_rows(state: Mapping[str, Tensor], *, is_in_eight_bits: Callable[[str, Tensor], bool]) -> dict[str, Tensor]:
    """fp16 tensors, and int8 with a scale for each row (what the first dimension counts) of those that bear it.

    Raises `InvalidCheckpoint` for weights that are no numbers or too large for fp16.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if is_in_eight_bits(name, tensor):
            rows = tensor.float().flatten(1)
            scale = (rows.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-7).half()  # (rows, 1); 6e-8 is the least fp16
            packed[name] = (rows / scale.float()).round().clamp(-127, 127).to(torch.int8).view(tensor.shape)
            packed[name + _SCALE_SUFFIX] = scale
        else:
            packed[name] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        if not packed[name].isfinite().all() or not tensor.isfinite().all():
            raise InvalidCheckpoint(f"weights {name!r} are no numbers or too large for 16 bits; such a network is not saved")
    return packed


def unpacked_rows(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `packed_rows` was given, to rounding."""
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith(_SCALE_SUFFIX):
            continue
        scale = packed.get(name + _SCALE_SUFFIX)
        if scale is None:
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
        else:
            state[name] = (tensor.float().flatten(1) * scale.float()).view(tensor.shape)
    return state


def _bears_eight_bits(name: str, tensor: Tensor) -> bool:
    return name.endswith(_PROJECTION_SUFFIX) or (name.startswith("text.") and tensor.ndim == 2 and _POSITIONS not in name)


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size_bytes = 0
    for name, tensor in tensors.items():
        tensor_bytes = tensor.numel() * tensor.element_size()
        if shard and size_bytes + tensor_bytes > MAX_FILE_BYTES:
            yield shard
            shard, size_bytes = {}, 0
        shard[name] = tensor
        size_bytes += tensor_bytes
    yield shard


def _fingerprint(folder: Path, *, config: Mapping[str, Any], weight_names: list[str]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in [TOKENIZER_NAME, *weight_names]:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that, once the block has written it, durably replaces `path` as a whole; a failed block leaves `path` alone.

    Whatever wrote it, the file has the mode that the umask gives to a new one: safetensors writes for the owner alone, and a checkpoint
    is for everybody who may read its folder.
    """
    temporary = path.with_name(f"{path.name}.partial")
    temporary.unlink(missing_ok=True)  # a killed run's, whose mode may be another
    temporary.touch()
    new_file_mode = stat.S_IMODE(temporary.stat().st_mode)
    yield temporary
    temporary.chmod(new_file_mode)
    sync_to_disk(temporary)
    temporary.replace(path)
    sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
