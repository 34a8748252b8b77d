"""Whether explanations are faithful: `python -m benchmarks.explanation_quality SOURCE`.

Deletion (Petsiuk et al. 2018, RISE), on the captions of a captioned source: the patches of a picture are replaced one after the other by
the mean patch of their place, the most relevant for its caption first. The match logit falls; its mean over all steps, between that of the
whole picture (1) and that of nothing but means (0), is the deletion AUC. Peers, in the same run: patches in a random order, by raw
attention without the gradient, and the least relevant first. Lower is more faithful; the last should be the highest.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from api.encoder_shelf import EncoderShelf
from benchmarks.reporting import describe_machine, markdown_table, write_json
from indexer.in_memory import scan_pictures
from indexer.sources import open_source
from search.readers import reader_of_patches
from sightline.encoders.image_input import decode_image
from sightline.encoders.matcher import FusionMatcher
from sightline.encoders.tokens import TextTokens, TokenEncoder
from sightline.locations import picture_at
from sightline.settings import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Deletion AUC of explanations, beside deletion at random and by attention alone.")
    parser.add_argument("source", help="captioned pictures: any source of `sightline index`")
    parser.add_argument("--pictures", type=int, default=200, help="how many are explained (default: 200)")
    parser.add_argument("--fusion", help="the fusion encoder (default: the one that comes with the encoder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    settings = load_settings(fusion=options.fusion)
    shelf = EncoderShelf(None, settings=settings)
    encoder = cast(TokenEncoder, shelf.for_new_collection())
    matcher = reader_of_patches(shelf.matcher_of(encoder, where="the source"))
    if matcher is None:
        parser.error(f"{encoder.name} brings no fusion encoder; name one with --fusion")
    captions, pixels = _captioned(options.source, encoder, num_pictures=options.pictures, max_pixels=settings.max_pixels)
    rows = measure(captions, pixels, encoder, matcher)
    print(describe_machine())
    print()
    print(markdown_table(rows))
    write_json(options.json, benchmark="explanation_quality", figures=rows)
    return 0


def measure(captions: Sequence[str], pixels: NDArray[np.uint8], encoder: TokenEncoder, matcher: FusionMatcher) -> list[dict[str, object]]:
    """One row an order of deletion: median AUC, and the share of pictures where it is lower than at random."""
    blocks = np.array_split(pixels, len(pixels) // 32 + 1)
    patches = np.concatenate([matcher.project(encoder.embed_pixels_with_tokens(block)[1]) for block in blocks if len(block)])
    neutral = patches.mean(axis=0)
    neutral /= np.linalg.norm(neutral, axis=-1, keepdims=True)
    generator = np.random.default_rng(0)
    areas: dict[str, list[float]] = {}
    for caption, picture in zip(captions, patches, strict=True):
        _, texts = encoder.embed_texts_with_tokens([caption])
        relevance = matcher.explain(texts, picture[None]).overall.ravel()
        attention = attention_alone(matcher, texts, picture)
        orders = {
            "most relevant first": np.argsort(-relevance),
            "most attended first": np.argsort(-attention),
            "at random": generator.permutation(len(relevance)),
            "least relevant first": np.argsort(relevance),
        }
        for name, order in orders.items():
            logits = matcher.match_logits(texts, deleted(picture, order, neutral))[0]  # (steps,)
            areas.setdefault(name, []).append(float((logits.mean() - logits[-1]) / (logits[0] - logits[-1])))
    random = np.array(areas["at random"])
    return [
        {
            "deleted": name,
            "deletion AUC, median": round(float(np.median(found)), 3),
            "lower than at random, %": round(100 * float((np.array(found) < random).mean()), 1),
            "pictures": len(found),
        }
        for name, found in areas.items()
    ]


def deleted(patches: NDArray[np.float32], order: NDArray[np.int64], neutral: NDArray[np.float32]) -> NDArray[np.float32]:
    """(steps, rows, width): as they are, then one more patch at a time replaced by `neutral`.

    Rows beyond those that `order` ranks tell of the picture as a whole, and stay.
    """
    rank = np.full(len(patches), len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    is_gone = rank[np.newaxis] < np.arange(len(order) + 1)[:, np.newaxis]  # (steps, rows)
    return np.where(is_gone[:, :, np.newaxis], neutral, patches).astype(np.float32)


def attention_alone(matcher: FusionMatcher, texts: TextTokens, patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much the words attend to each patch in the alignment, by the words' weights: (patches,)."""
    model = matcher._model
    with torch.inference_mode():
        hidden = model.text_norm(torch.from_numpy(texts.hidden_states))
        words = functional.normalize(model.alignment.word(hidden), dim=-1)
        attention, _ = model.alignment.attend(words, model.grid_of(torch.from_numpy(patches)[None]))  # (1, words, patches)
        weights = model.alignment.word_weights(hidden, torch.from_numpy(texts.mask))  # (1, words)
    return np.asarray((weights[0] @ attention[0].float()).numpy())


def _captioned(source: str, encoder: TokenEncoder, *, num_pictures: int, max_pixels: int) -> tuple[list[str], NDArray[np.uint8]]:
    """The first caption of each of the first pictures that have one, and their prepared pixels."""
    captions: list[str] = []
    pixels: list[NDArray[np.uint8]] = []
    for item in scan_pictures(open_source(source, None)).items:
        if item.text and len(captions) < num_pictures:
            source_bytes = picture_at(Path(item.location))
            decoded = decode_image(source_bytes, name=item.key, max_pixels=max_pixels, target_side=encoder.image_side)
            captions.append(item.text.split("\n")[0])
            pixels.append(encoder.prepare(decoded.image))
    return captions, np.stack(pixels)


if __name__ == "__main__":
    sys.exit(main())
