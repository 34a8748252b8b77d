"""A fusion encoder on disk: `fusion.json` and fp16 weights (banks and wide layers in 8 bits) as safetensors, in a folder of its own or
with its encoder. A second image backbone lies in a file of its own, which is read when a picture is, and not for a search by words.

The fingerprint covers what patches depend on and nothing else: the encoder's fingerprint, the configuration and the weights. Figures,
credits and the numbers fitted on validation pictures may be corrected without making stored patches stale.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightline.encoders.checkpoint import replacing
from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig
from sightline.encoders.image_backbone import ImageBackboneConfig
from sightline.encoders.matcher import Calibration, Combination, FusionMatcher
from sightline.encoders.second_backbone import SecondBackbone, load_second_backbone, save_second_backbone
from sightline.errors import InvalidCheckpoint
from sightline.types import JsonObject

FUSION_CARD, FUSION_WEIGHTS, SECOND_BACKBONE_WEIGHTS = "fusion.json", "fusion.safetensors", "second_backbone.safetensors"
FORMAT_VERSION = 2

_IN_EIGHT_BITS = frozenset(
    {
        "banks.words",
        "banks.patches",
        "second.bank_texts",
        "second.components.weight",
        "second.image.hidden.weight",
        "second.text.hidden.weight",
        "patch_projection.linear.weight",
    }
)
"""Rows that are only averaged over, and layers that read standardised features: in 16 bits they would be most of the file."""

_SCALES = ".scales"
_INT8_MAX = 127
_LEAST_SCALE = 1e-4  # of a row of zeros; a normal number in fp16


@dataclass(frozen=True, slots=True)
class FusionCheckpoint:
    """A fusion encoder with what was fitted after its training."""

    model: FusionEncoder
    encoder_fingerprint: str  # of the dual encoder whose tokens it reads
    combination: Combination
    calibration: Calibration
    second_backbone: ImageBackboneConfig | None = None  # what it reads pictures by besides the encoder's tokens
    load_second_backbone: Callable[[], SecondBackbone] | None = None  # likewise; may be called more than once
    fingerprint: str = ""  # given by saving
    card: JsonObject = dataclasses.field(default_factory=dict)

    def matcher(self, device: torch.device) -> FusionMatcher:
        """Ready to be asked."""
        return FusionMatcher(
            self.model,
            fingerprint=self.fingerprint,
            encoder_fingerprint=self.encoder_fingerprint,
            combination=self.combination,
            calibration=self.calibration,
            device=device,
            load_second_backbone=self.load_second_backbone,
        )


def save_fusion_checkpoint(folder: Path, checkpoint: FusionCheckpoint, *, notes: JsonObject) -> str:
    """Writes weights, then card, and gives the fingerprint. `notes` goes into the card as it is.

    A kill on the way leaves the former checkpoint or one that `load_fusion_checkpoint` refuses. Raises `InvalidCheckpoint` for weights that
    are no numbers in fp16.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in checkpoint.model.state_dict().items():
        state |= _quantised(name, tensor) if name in _IN_EIGHT_BITS else {name: tensor.half() if tensor.is_floating_point() else tensor}
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise InvalidCheckpoint(f"weights {name!r} are no numbers or too large for 16 bits; such a network is not saved")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / FUSION_WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, temporary)
    config = dataclasses.asdict(checkpoint.model.config)
    if checkpoint.load_second_backbone is not None:
        save_second_backbone(folder / SECOND_BACKBONE_WEIGHTS, checkpoint.load_second_backbone())
    else:
        (folder / SECOND_BACKBONE_WEIGHTS).unlink(missing_ok=True)
    second = None if checkpoint.second_backbone is None else dataclasses.asdict(checkpoint.second_backbone)
    fingerprint = _fingerprint(folder, config=config, second=second, encoder_fingerprint=checkpoint.encoder_fingerprint)
    card = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "encoder_fingerprint": checkpoint.encoder_fingerprint,
        "config": config,
        "second_backbone": second,
        "combination": dataclasses.asdict(checkpoint.combination),
        "calibration": dataclasses.asdict(checkpoint.calibration),
    }
    assert not card.keys() & notes.keys(), "notes beside the card's own fields, not instead of them"
    with replacing(folder / FUSION_CARD) as temporary:
        temporary.write_text(json.dumps(card | notes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return fingerprint


def _quantised(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Numbers in 8 bits, with a scale for each row, as patches are stored."""
    scales = (tensor.abs().amax(dim=-1, keepdim=True) / _INT8_MAX).clamp_min(_LEAST_SCALE).half()
    return {name: (tensor / scales.float()).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8), name + _SCALES: scales}


def _dequantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as the network takes them."""
    found = {}
    for name, tensor in state.items():
        if tensor.dtype is torch.int8:
            found[name] = tensor.float() * state[name + _SCALES].float()
        elif not name.endswith(_SCALES):
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
    return found


def has_fusion_checkpoint(folder: Path) -> bool:
    """Whether there is one to load."""
    return (folder / FUSION_CARD).exists()


def load_fusion_checkpoint(folder: Path) -> FusionCheckpoint:
    """On the CPU, in evaluation mode. Raises `InvalidCheckpoint` for a folder without one, of another version, damaged or incomplete."""
    try:
        card = json.loads((folder / FUSION_CARD).read_text(encoding="utf-8"))
        if card["format_version"] != FORMAT_VERSION:
            raise InvalidCheckpoint(
                f"{folder}: the fusion encoder has format {card['format_version']!r}; this Sightline reads format {FORMAT_VERSION}"
            )
        found = _fingerprint(
            folder, config=card["config"], second=card.get("second_backbone"), encoder_fingerprint=card["encoder_fingerprint"]
        )
        if found != card["fingerprint"]:
            raise InvalidCheckpoint(f"{folder}: {FUSION_WEIGHTS} is not what {FUSION_CARD} was written for; copy the fusion encoder again")
        model = FusionEncoder(FusionEncoderConfig(**card["config"]))
        model.load_state_dict(_dequantised(load_file(folder / FUSION_WEIGHTS)), strict=True)
        return FusionCheckpoint(
            model=model.eval(),
            encoder_fingerprint=card["encoder_fingerprint"],
            combination=Combination(**card["combination"]),
            calibration=Calibration(**card["calibration"]),
            **_second_backbone(folder, card.get("second_backbone")),
            fingerprint=found,
            card=card,
        )
    except InvalidCheckpoint:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.exists():
            raise InvalidCheckpoint(f"{folder}: there is no such folder; expected one with a fusion encoder") from error
        if not (folder / FUSION_CARD).exists():
            raise InvalidCheckpoint(f"{folder} holds no fusion encoder: its card, {FUSION_CARD}, is missing") from error
        raise InvalidCheckpoint(f"{folder}: {Path(error.filename).name} is missing; copy the fusion encoder again") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OSError, AssertionError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{folder}: no fusion encoder can be read there: {error}") from error


def _second_backbone(folder: Path, values: dict[str, Any] | None) -> dict[str, Any]:
    if values is None:
        return {}
    config = ImageBackboneConfig(**{**values, "pixel_mean": tuple(values["pixel_mean"]), "pixel_std": tuple(values["pixel_std"])})
    load = partial(load_second_backbone, folder / SECOND_BACKBONE_WEIGHTS, config)
    return {"second_backbone": config, "load_second_backbone": load}


def _fingerprint(folder: Path, *, config: dict[str, Any], second: dict[str, Any] | None, encoder_fingerprint: str) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, encoder_fingerprint, config, second], sort_keys=True).encode())
    for name in [FUSION_WEIGHTS, *([] if second is None else [SECOND_BACKBONE_WEIGHTS])]:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
