"""The encoders that are measured: random weights take the same time as trained ones, so nothing has to be fetched."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from sightline.encoders.checkpoint import build_dual_encoder, save_checkpoint
from sightline.encoders.dual_encoder import DualEncoderConfig
from sightline.encoders.image_backbone import ImageBackboneConfig
from sightline.encoders.text_input import TextInput

BUNDLED_MINI = Path(__file__).resolve().parents[1] / "sightline" / "encoders" / "weights" / "sightline-mini"

_IMAGE_SIDE = 224


def save_vit_b_32(folder: Path) -> Path:
    """A CLIP model with the image encoder of ViT-B/32 (87.8 million weights); the text encoder, which no image passes, is one layer."""
    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=77)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {"vocab_size": len(pieces), "num_hidden_layers": 1, **special}
    vision = {"image_size": _IMAGE_SIDE, "patch_size": 32}  # the rest is ViT-B by default
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    crop = {"height": _IMAGE_SIDE, "width": _IMAGE_SIDE}
    CLIPImageProcessor(size={"shortest_edge": _IMAGE_SIDE}, crop_size=crop).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_random_mini(folder: Path) -> Path:
    """A checkpoint of sightline-mini's shape: EfficientNet-Lite0 in two branches and a text encoder as MiniLM-L6 has it."""
    image = ImageBackboneConfig("timm", "tf_efficientnet_lite0", _IMAGE_SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    text_config: dict[str, object] = {
        "model_type": "bert",
        "vocab_size": 30_522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    }
    config = DualEncoderConfig(
        image=image,
        text_config=text_config,
        text_pooling="mean",
        max_text_tokens=64,
        image_width=1280,
        pooled_width=80 + 112 + 192 + 320 + 1280,
        pools_stages=True,
        text_width=384,
        embedding_dim=512,
        projection_hidden_dim=1024,
        num_frozen_stages=5,
        has_kept_branch=True,
    )
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    save_checkpoint(folder, model=build_dual_encoder(config).eval(), text_input=TextInput(tokenizer, max_tokens=64), notes={})
    return folder


def mini_folder(scratch: Path) -> Path:
    """The bundled sightline-mini; where a checkout has none, random weights of its shape, written into `scratch`."""
    return BUNDLED_MINI if (BUNDLED_MINI / "card.json").exists() else save_random_mini(scratch / "mini")
