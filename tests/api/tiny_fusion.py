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
LENGTH_EXPONENT = -0.4
WORDS = "a red ball and a blue cube on the grass"


NUM_BANK_TEXTS, WORDS_A_BANK_TEXT, NUM_BANK_IMAGES = 3, 4, 5
NUM_VOCABULARY = 200


def fill_banks(model: FusionEncoder) -> None:
    """Texts and pictures of noise, taken off as much as sightline-mini's are."""
    banks = model.banks
    for tensor in (banks.words, banks.patches):
        tensor.copy_(torch.nn.functional.normalize(torch.randn(tensor.shape), dim=-1))
    banks.text_by_word.copy_(torch.arange(NUM_BANK_TEXTS).repeat_interleave(WORDS_A_BANK_TEXT))
    banks.word_weights.fill_(1 / WORDS_A_BANK_TEXT)
    banks.factors.copy_(torch.tensor([30.0, 50.0]))
    banks.strengths.copy_(torch.tensor([0.75, 0.5]))


def fill_likelihood(model: FusionEncoder) -> None:
    """A vocabulary of the tokeniser's first tokens, each as likely of one picture as of another before it is looked at."""
    assert model.likelihood is not None
    model.likelihood.vocabulary.copy_(torch.arange(NUM_VOCABULARY))
    model.likelihood.log_shares.fill_(-1.0)
    model.likelihood.weight.fill_(3.0)


def save_fusion(folder: Path, *, encoder_fingerprint: str, token_dim: int, text_width: int, weight: float = WEIGHT, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = FusionEncoderConfig(
        token_dim=token_dim,
        text_width=text_width,
        grid_height=7,
        grid_width=7,
        width=32,
        num_layers=1,
        num_heads=4,
        hidden_dim=32,
        num_bank_words=NUM_BANK_TEXTS * WORDS_A_BANK_TEXT,
        num_bank_texts=NUM_BANK_TEXTS,
        num_bank_images=NUM_BANK_IMAGES,
        num_vocabulary=NUM_VOCABULARY,
        likelihood_dim=8,
    )
    model = FusionEncoder(config)
    fill_banks(model)
    fill_likelihood(model)
    torch.nn.init.normal_(model.head.weight)
    combination = Combination(text_to_image=weight, image_to_text=IMAGE_TO_TEXT_WEIGHT, length_exponent=LENGTH_EXPONENT)
    checkpoint = FusionCheckpoint(model, encoder_fingerprint, combination, Calibration(0.5, -0.1))
    save_fusion_checkpoint(folder, checkpoint, notes={})
    return folder


def opened(folder: Path, encoder: ComposedEncoder, fusion: Path | None) -> Sightline:
    return open_store(encoder=encoder, settings=load_settings(store=folder, fusion=None if fusion is None else str(fusion)))
