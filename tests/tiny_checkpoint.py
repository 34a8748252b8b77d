"""A seeded dual encoder of a few thousand parameters, saved as a checkpoint: for tests where weights don't matter."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from sightline.encoders.checkpoint import build_dual_encoder, save_checkpoint
from sightline.encoders.dual_encoder import DualEncoder, DualEncoderConfig
from sightline.encoders.image_backbone import ImageBackboneConfig
from sightline.encoders.text_input import TextInput

WORDS = [
    "a",
    "the",
    "of",
    "on",
    "in",
    "red",
    "green",
    "blue",
    "black",
    "white",
    "yellow",
    "ball",
    "cube",
    "dog",
    "cat",
    "beach",
    "photo",
    "left",
    "right",
    "two",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny_config(*, has_kept_branch: bool = True, num_frozen_stages: int = 2) -> DualEncoderConfig:
    """A ResNet of 0.3 M parameters at 32 pixels and a BERT of two layers, 16 wide; 24-d."""
    return DualEncoderConfig(
        image=ImageBackboneConfig("timm", "test_resnet", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        text_config={
            "model_type": "bert",
            "vocab_size": len(SPECIAL) + len(WORDS),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 16,
        },
        text_pooling="mean",
        max_text_tokens=12,
        image_width=96,
        pooled_width=96,
        pools_stages=False,
        text_width=16,
        embedding_dim=24,
        projection_hidden_dim=32,
        num_frozen_stages=num_frozen_stages,
        has_kept_branch=has_kept_branch,
    )


def tiny_text_input(*, max_tokens: int = 12) -> TextInput:
    """A word-level tokeniser over `WORDS`, with BERT's special tokens."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    return TextInput(tokenizer, max_tokens=max_tokens)


def tiny_model(*, seed: int = 0, has_kept_branch: bool = True, num_frozen_stages: int = 2) -> DualEncoder:
    """The network of `tiny_config`, seeded, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_dual_encoder(tiny_config(has_kept_branch=has_kept_branch, num_frozen_stages=num_frozen_stages)).eval()


def write_tiny_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """Saves `tiny_model` into `folder` and gives it back."""
    save_checkpoint(folder, model=tiny_model(seed=seed), text_input=tiny_text_input(), notes={"licence": "none: random weights"})
    return folder
