"""The number format of training: bfloat16 arithmetic on float32 weights, where the device has instructions for it."""

import torch

from sightline.encoders.device import autocast_dtype


def training_autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast for this device, whose range makes gradient scaling unnecessary; none where the processor would emulate it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast_dtype(device) is not None)
