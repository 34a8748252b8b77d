"""CLIP, SigLIP, SigLIP 2 and BLIP models of a few thousand weights, whole with processor and tokeniser, written as `save_pretrained` does.

Seeded and random: they prove that our path through a network is transformers' own, not that the network knows anything.
"""

import io
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    GemmaTokenizer,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    SiglipTokenizer,
)
from transformers.utils import logging as transformers_logging

MAX_TOKENS = 16
IMAGE_SIDE = 32
PATCH_SIDE = 8
_LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {**_LAYERS, "image_size": IMAGE_SIDE, "patch_size": PATCH_SIDE}
_NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None}  # transformers' defaults lie beyond a tiny vocabulary
_SENTENCES = [
    "a photo of a dog on the beach",
    "two cats sleep on a red sofa",
    "the quick brown fox jumps over lazy dogs",
    "zebras, vixens & jackdaws!",
]

transformers_logging.set_tqdm_hook(lambda factory, args, kwargs: factory(*args, **(kwargs | {"disable": True})))


def save_clip(folder: Path, *, eos_token_id: int | None = None, embedding_dim: int = 24) -> Path:
    """CLIP with byte-level BPE; `eos_token_id` is what the configuration says, by default what the tokeniser writes."""
    letters = sorted(ByteLevel.alphabet())
    merges: Any = [("d", "o"), ("do", "g</w>"), ("c", "a"), ("ca", "t</w>"), ("t", "h"), ("th", "e</w>")]  # pairs, not strings as annotated
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
    special = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    eos = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
    text = {**_LAYERS, "vocab_size": len(vocabulary), "max_position_embeddings": MAX_TOKENS, "eos_token_id": eos, **special}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=embedding_dim)).save_pretrained(folder)
    size = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    CLIPImageProcessor(size={"shortest_edge": IMAGE_SIDE}, crop_size=size).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    """SigLIP with its sentencepiece tokeniser, which drops punctuation and capitals."""
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES * 4),
        model_writer=written,
        vocab_size=60,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        control_symbols=["<ctrl>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(written.getvalue())
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=MAX_TOKENS, model_input_names=["input_ids"])
    SiglipProcessor(_siglip_images(), tokenizer).save_pretrained(folder)  # type: ignore[no-untyped-call]
    _save_siglip_network(folder, vocab_size=len(tokenizer), seed=1)
    return folder


def save_siglip2_fixed(folder: Path) -> Path:
    """SigLIP 2 of one resolution: SigLIP's network with Gemma's tokeniser, as Google's checkpoints configure it."""
    vocabulary, merges = _gemma_vocabulary()
    tokenizer = GemmaTokenizer(
        vocab=vocabulary,
        merges=merges,
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
        model_input_names=["input_ids"],
    )
    SiglipProcessor(_siglip_images(), tokenizer).save_pretrained(folder)  # type: ignore[no-untyped-call]
    _save_siglip_network(folder, vocab_size=len(vocabulary), seed=2)
    return folder


def save_siglip2_naflex(folder: Path) -> Path:
    """SigLIP 2 NaFlex: at most 12 patches of 8 x 8 pixels in a grid of the picture's own shape."""
    vocabulary, merges = _gemma_vocabulary()
    tokenizer = Siglip2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
        model_input_names=["input_ids"],
    )
    text = {**_LAYERS, "vocab_size": len(vocabulary), "max_position_embeddings": MAX_TOKENS, "projection_size": 32, **_NO_SPECIAL}
    vision = {**_LAYERS, "patch_size": PATCH_SIDE, "num_patches": 16}
    torch.manual_seed(3)
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(folder)
    Siglip2Processor(Siglip2ImageProcessor(patch_size=PATCH_SIDE, max_num_patches=12), tokenizer).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def save_blip(folder: Path, *, seed: int = 4) -> Path:
    """BLIP for image-text matching, with BERT's word pieces in lower case."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "cat", "the", "on", "!", ",", *letters]
    pieces += [f"##{letter}" for letter in letters]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=MAX_TOKENS)
    special = {"bos_token_id": len(pieces), "pad_token_id": 0, "sep_token_id": 3, "eos_token_id": 3}
    text = {
        **_LAYERS,
        "vocab_size": len(pieces) + 2,
        "max_position_embeddings": MAX_TOKENS,
        **special,
    }  # as the hub's, two beyond the words
    model = BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=_VISION, image_text_hidden_size=16))
    torch.manual_seed(seed)
    for weights in model.parameters():
        if weights.ndim > 1:  # BLIP's own initial weights are so small that every picture would be read alike
            torch.nn.init.normal_(weights, std=0.3)
    model.save_pretrained(folder)
    BlipImageProcessor(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _siglip_images() -> SiglipImageProcessor:
    return SiglipImageProcessor(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE})


def _save_siglip_network(folder: Path, *, vocab_size: int, seed: int) -> None:
    text = {**_LAYERS, "vocab_size": vocab_size, "max_position_embeddings": MAX_TOKENS, "projection_size": 32, **_NO_SPECIAL}
    torch.manual_seed(seed)
    SiglipModel(SiglipConfig(text_config=text, vision_config=_VISION)).save_pretrained(folder)


def _gemma_vocabulary() -> tuple[dict[str, int], Any]:
    merges = [("d", "o"), ("do", "g"), ("c", "a"), ("ca", "t"), ("▁", "a")]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *("".join(pair) for pair in merges)]
    return {piece: number for number, piece in enumerate(pieces)}, merges
