"""Where a network runs, from the word that a person sets."""

import torch

from sightline.errors import InvalidSetting

DEVICE_NAMES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `mps`; `auto` takes the first of cuda, mps and cpu that this machine has.

    Raises `InvalidSetting` for any other word, and for a device that this machine or this build of torch does not have.
    """
    match name:
        case "auto":
            return torch.device(_available_names()[0])
        case "cpu" | "cuda" | "mps":
            if name not in _available_names():
                raise InvalidSetting(f"device {name!r}: {_why_absent(name)}; use 'auto' or 'cpu'")
            return torch.device(name)
        case _:
            raise InvalidSetting(f"device {name!r} is unknown; expected one of {', '.join(DEVICE_NAMES)}")


def weights_dtype(device: torch.device) -> torch.dtype:
    """What a network's weights are held in for inference on `device`: half precision on CUDA, float32 elsewhere.

    bfloat16 where the card computes it natively (its range is float32's, so no activation of a foreign checkpoint overflows), float16
    on older cards. On a CPU half precision is emulated or slow for many of the machines Sightline runs on; on mps several operators
    that vision transformers need exist in float32 only.
    """
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _available_names() -> list[str]:
    """Devices that can be used now, the fastest first; never empty."""
    has_by_name = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, is_there in has_by_name.items() if is_there]


def _why_absent(name: str) -> str:
    if name == "cuda":
        return "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU or driver on this machine"
    return "torch finds no Apple GPU on this machine"
