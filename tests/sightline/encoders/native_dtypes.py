"""In which types this processor multiplies by itself."""

import torch

from sightline.encoders.device import autocast_dtype


def native_dtypes() -> list[torch.dtype]:
    """float32, and bfloat16 where the processor has instructions for it."""
    return [torch.float32] if autocast_dtype(torch.device("cpu")) is None else [torch.float32, torch.bfloat16]
