"""From the name that a person gives to the encoder behind it; the one place that knows all kinds."""

from pathlib import Path

from sightline.encoders.encoder import Encoder
from sightline.errors import EncoderUnavailable
from sightline.settings import DEFAULT_ENCODER

CARD_NAME = "card.json"
"""What makes a folder one of our checkpoints; spelled again in `checkpoint`, which is not imported before it is needed."""


def load_encoder(spec: str, *, device: str = "auto") -> Encoder:
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
    from sightline.encoders.hub_encoder import load_hub_encoder

    return load_hub_encoder(spec, device=device)


def bundled_folder() -> Path:
    """Where sightline-mini's checkpoint lies: inside the package."""
    return Path(__file__).parent / "weights" / DEFAULT_ENCODER


def _load_bundled(device: str) -> Encoder:
    from sightline.encoders.composed import load_composed_encoder

    folder = bundled_folder()
    if not (folder / CARD_NAME).is_file():
        raise EncoderUnavailable(f"{DEFAULT_ENCODER}: its weights are missing from {folder}; install Sightline again")
    return load_composed_encoder(folder, name=DEFAULT_ENCODER, device=device)
