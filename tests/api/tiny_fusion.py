"""A tiny seeded fusion encoder on top of the tiny encoder, and stores that are searched with it."""

from pathlib import Path

import torch

from api import Sightline, open_store
from sightline.encoders.composed import ComposedEncoder
from sightline.encoders.fusion_checkpoint import FusionCheckpoint, save_fusion_checkpoint
from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig
from sightline.encoders.matcher import Calibration, Combination
from sightline.settings import load_settings

NUM_PICTURES = 12
WEIGHT = 0.02
IMAGE_TO_TEXT_WEIGHT = 0.05
WORDS = "a red ball and a blue cube on the grass"


def save_fusion(folder: Path, *, encoder_fingerprint: str, token_dim: int, text_width: int, weight: float = WEIGHT) -> Path:
    torch.manual_seed(0)
    config = FusionEncoderConfig(
        token_dim=token_dim, text_width=text_width, grid_height=7, grid_width=7, width=32, num_layers=1, num_heads=4, hidden_dim=32
    )
    model = FusionEncoder(config)
    torch.nn.init.normal_(model.head.weight)
    combination = Combination(text_to_image=weight, image_to_text=IMAGE_TO_TEXT_WEIGHT)
    checkpoint = FusionCheckpoint(model, encoder_fingerprint, combination, Calibration(0.5, -0.1))
    save_fusion_checkpoint(folder, checkpoint, notes={})
    return folder


def opened(folder: Path, encoder: ComposedEncoder, fusion: Path | None) -> Sightline:
    return open_store(encoder=encoder, settings=load_settings(store=folder, fusion=None if fusion is None else str(fusion)))
