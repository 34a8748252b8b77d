"""Where a network runs, from the word that a person sets, and in which numbers."""

from collections.abc import Mapping
from typing import Any

import torch

from sightline.errors import InvalidSetting

DEVICE_NAMES = ("auto", "cpu", "cuda", "mps")

_BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16")
"""As `torch.cpu.get_capabilities` names them: those of x86, then Arm's."""


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


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What products are computed in under autocast: half precision where the device has instructions for it, else none, for float32.

    Emulated it is slower than float32: a convolutional network in bfloat16 took seventy times as long on a processor with AVX2 alone.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _has_bfloat16_instructions(torch.cpu.get_capabilities()) else None


def has_onednn_operation(name: str) -> bool:
    """Whether this build of torch has oneDNN, and that operation of `torch.ops.mkldnn`."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's own lacks annotations
    return bool(has_onednn) and hasattr(torch.ops.mkldnn, name)


def _has_bfloat16_instructions(capabilities: Mapping[str, Any]) -> bool:
    """oneDNN says that it takes bfloat16 on every processor with AVX-512, of which the older ones emulate it too."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and any(capabilities.get(name, False) for name in _BFLOAT16_INSTRUCTIONS)


def _available_names() -> list[str]:
    """Devices that can be used now, the fastest first; never empty."""
    has_by_name = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, is_there in has_by_name.items() if is_there]


def _why_absent(name: str) -> str:
    if name == "cuda":
        return "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU or driver on this machine"
    return "torch finds no Apple GPU on this machine"
