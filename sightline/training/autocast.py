"""The number format of training: bfloat16 arithmetic on float32 weights, on a CPU as on a GPU."""

import torch


def training_autocast(device: torch.device) -> torch.autocast:
    """bfloat16 autocast for this device; its range makes gradient scaling unnecessary."""
    return torch.autocast(device.type, dtype=torch.bfloat16)
