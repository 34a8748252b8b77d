"""A seeded fusion encoder of a few thousand parameters, saved as a checkpoint: for tests where weights don't matter."""

from pathlib import Path

import torch

from sightline.encoders.fusion_checkpoint import FusionCheckpoint, save_fusion_checkpoint
from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig
from sightline.encoders.matcher import Calibration, Combination
from sightline.encoders.tokens import TokenEncoder

COMBINATION = Combination(text_to_image=0.02, image_to_text=0.01)


def tiny_fusion_encoder(*, token_dim: int, text_width: int, width: int = 32, grid_side: int = 7) -> FusionEncoder:
    """One layer, with a head that says something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = FusionEncoderConfig(
            token_dim=token_dim,
            text_width=text_width,
            grid_height=grid_side,
            grid_width=grid_side,
            width=width,
            num_layers=1,
            num_heads=4,
            hidden_dim=32,
        )
        model = FusionEncoder(config)
        torch.nn.init.normal_(model.head.weight)
    return model.eval()


def write_tiny_fusion(folder: Path, encoder: TokenEncoder, *, combination: Combination = COMBINATION) -> Path:
    """Saves one that reads the encoder's tokens into `folder` and gives it back."""
    model = tiny_fusion_encoder(token_dim=encoder.image_token_dim, text_width=encoder.text_token_dim)
    save_fusion_checkpoint(folder, FusionCheckpoint(model, encoder.fingerprint, combination, Calibration(0.5, -0.1)), notes={})
    return folder
