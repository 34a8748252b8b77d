"""From the name that a person gives to the encoder behind it; the one place that knows all kinds."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.errors import EncoderUnavailable
from sightline.settings import DEFAULT_ENCODER

if TYPE_CHECKING:  # importing it imports torch
    from sightline.encoders.blip_matcher import BlipMatcher
    from sightline.encoders.matcher import FusionMatcher
    from sightline.encoders.tokens import TokenEncoder

CARD_NAME = "card.json"
"""What makes a folder one of our checkpoints; spelled again in `checkpoint`, which is not imported before it is needed."""

FUSION_CARD_NAME = "fusion.json"
"""What makes a folder hold a fusion encoder; spelled again in `fusion_checkpoint`."""

_NEAR_NAME = 0.7
"""Of difflib's similarity, which is 0.96 for `sightline-mni`, 0.78 for `sightline` and 0.5 for `siglip`."""


def load_encoder(spec: str, *, device: str = "auto") -> "TokenEncoder":
    """The encoder that `spec` names, on `device` (auto, cpu, cuda or mps).

    Args:
        spec: `sightline-mini` (bundled), a folder that `sightline train` wrote, a folder with a transformers model, or a hub id.
        device: where its networks run.

    Cost: reading the weights, about a second for sightline-mini. Raises `EncoderUnavailable` (`InvalidCheckpoint` for a damaged
    folder) with what was asked for and what to do, and `InvalidSetting` for a device that this machine does not have.
    """
    if spec == DEFAULT_ENCODER:
        return _load_bundled(device)
    folder = Path(spec).expanduser()
    if (folder / CARD_NAME).is_file():
        from sightline.encoders.composed import load_composed_encoder

        return load_composed_encoder(folder, name=str(folder.resolve()), device=device)
    is_bare_name = folder.name == spec and not folder.exists()
    if is_bare_name and difflib.get_close_matches(spec.lower(), [DEFAULT_ENCODER], cutoff=_NEAR_NAME):
        raise EncoderUnavailable(
            f"there is no encoder {spec!r}; did you mean {DEFAULT_ENCODER!r}? Others are named by their folder or by a hub id with its "
            "owner, such as openai/clip-vit-base-patch32"
        )
    from sightline.encoders.hub_encoder import load_hub_encoder

    return load_hub_encoder(spec, device=device)


def fusion_folder(spec: str) -> Path | None:
    """Where the fusion encoder of the encoder that `spec` names lies: beside its weights. None where it brings none, as hub models do."""
    folder = checkpoint_folder(spec)
    return folder if folder is not None and (folder / FUSION_CARD_NAME).is_file() else None


def checkpoint_folder(spec: str) -> Path | None:
    """The folder of the encoder of ours that `spec` names; None for a model of the hub that is no folder here."""
    folder = bundled_folder() if spec == DEFAULT_ENCODER else Path(spec).expanduser()
    return folder if folder.is_dir() else None


def load_second_stage(spec: str, *, device: str = "auto") -> "FusionMatcher | BlipMatcher":
    """The fusion encoder that `spec` names: a folder of ours, or BLIP by hub id or folder.

    Raises `EncoderUnavailable` (`InvalidCheckpoint` for a damaged folder) with what was asked for and what to do.
    """
    if reads_stored_patches(spec):
        return load_matcher(Path(spec).expanduser(), device=device)
    return load_picture_matcher(spec, device=device)


def reads_stored_patches(spec: str) -> bool:
    """Whether it names a fusion encoder of ours, or a place where one should be, and no pretrained one."""
    folder = Path(spec).expanduser()
    is_ours = (folder / FUSION_CARD_NAME).is_file() or (folder.is_dir() and not (folder / "config.json").is_file())
    is_missing_path = not folder.exists() and spec.startswith(("/", ".", "~"))  # no hub id begins so
    return is_ours or is_missing_path


def load_matcher(folder: Path, *, device: str = "auto") -> "FusionMatcher":
    """Our own fusion encoder in `folder`. Raises `InvalidCheckpoint`."""
    from sightline.encoders.device import choose_device
    from sightline.encoders.fusion_checkpoint import load_fusion_checkpoint

    return load_fusion_checkpoint(folder).matcher(choose_device(device))


def load_picture_matcher(spec: str, *, device: str = "auto") -> "BlipMatcher":
    """The pretrained fusion encoder that `spec` names, a hub id or a folder, which reads the pictures themselves and fits any encoder.

    Raises `EncoderUnavailable` (`InvalidCheckpoint` for damaged files) with what was asked for and what to do, and `InvalidSetting` for a
    device that this machine does not have.
    """
    from sightline.encoders.blip_matcher import load_blip_matcher

    return load_blip_matcher(spec, device=device)


def bundled_folder() -> Path:
    """Where sightline-mini's checkpoint lies: inside the package."""
    return Path(__file__).parent / "weights" / DEFAULT_ENCODER


def _load_bundled(device: str) -> "TokenEncoder":
    from sightline.encoders.composed import load_composed_encoder

    folder = bundled_folder()
    if not (folder / CARD_NAME).is_file():
        raise EncoderUnavailable(f"{DEFAULT_ENCODER}: its weights are missing from {folder}; install Sightline again")
    return load_composed_encoder(folder, name=DEFAULT_ENCODER, device=device)
