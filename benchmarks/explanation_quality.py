"""Whether explanations are faithful, and whether they point: `python -m benchmarks.explanation_quality SOURCE`.

Deletion (Petsiuk et al. 2018, RISE), on the captions of a captioned source: the patches of a picture are replaced one after the other by
the mean patch of their place, the most relevant for its caption first. The match logit falls; its mean over all steps, between that of the
whole picture (1) and that of nothing but means (0), is the deletion AUC. Peers, in the same run: patches in a random order, by raw
attention without the gradient, and the least relevant first. Lower is more faithful; the last should be the highest.

Pointing (the grid pointing game, Böhle et al. 2021): four pictures with four captions are put on one, and the caption of one of them is
explained. The map should lie on that quarter: how often its hottest patch does, and which share of the relevance. Peer, in the same run:
raw attention without the gradient. By chance a quarter of both.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
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
    captions, pictures = _captioned(options.source, encoder, num_pictures=options.pictures, max_pixels=settings.max_pixels)
    deletion = measure(captions, np.stack([encoder.prepare(picture) for picture in pictures]), encoder, matcher)
    print(describe_machine())
    print()
    print(markdown_table(deletion))
    pointing = point(captions, pictures, encoder, matcher)
    print()
    print(markdown_table(pointing))
    write_json(options.json, benchmark="explanation_quality", figures=deletion + pointing)
    return 0


def measure(captions: Sequence[str], pixels: NDArray[np.uint8], encoder: TokenEncoder, matcher: FusionMatcher) -> list[dict[str, object]]:
    """One row an order of deletion: median AUC, and the share of pictures where it is lower than at random."""
    patches = _patches(pixels, encoder, matcher)
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


def point(
    captions: Sequence[str], pictures: Sequence[Image.Image], encoder: TokenEncoder, matcher: FusionMatcher
) -> list[dict[str, object]]:
    """One row a kind of map: how often the hottest patch lies on the quarter that is asked for, and the share of the map that does.

    Every picture is asked for once, by its caption, beside three others of other captions, drawn at random with a fixed seed.
    """
    generator = np.random.default_rng(0)
    quarter_of = quarters(matcher.grid)
    hits: dict[str, list[bool]] = {}
    shares: dict[str, list[float]] = {}
    mosaics, places = [], []
    for asked, caption in enumerate(captions):
        others: list[int] = []
        for other in generator.permutation(len(captions)).tolist():
            if len(others) < 3 and captions[other] not in {caption, *(captions[each] for each in others)}:
                others.append(other)
        if len(others) < 3:
            raise ValueError("four different captions are needed to put four pictures on one")
        place = int(generator.integers(4))
        others.insert(place, asked)
        mosaics.append(encoder.prepare(mosaic([pictures[each] for each in others])))
        places.append(place)
    for caption, place, patches in zip(captions, places, _patches(np.stack(mosaics), encoder, matcher), strict=True):
        _, texts = encoder.embed_texts_with_tokens([caption])
        maps = {
            "relevance": matcher.explain(texts, patches[None]).overall.ravel(),
            "attention alone": attention_alone(matcher, texts, patches),
        }
        for name, relevance in maps.items():
            within = np.where(quarter_of >= 0, relevance, 0.0)
            hits.setdefault(name, []).append(bool(quarter_of[within.argmax()] == place))
            shares.setdefault(name, []).append(float(within[quarter_of == place].sum() / max(within.sum(), 1e-9)))
    return [
        {
            "map": name,
            "hottest patch in the right quarter, %": round(100 * float(np.mean(found)), 1),
            "of the map in it, %": round(100 * float(np.mean(shares[name])), 1),
            "pictures": len(found),
        }
        for name, found in hits.items()
    ]


def quarters(grid: tuple[int, int]) -> NDArray[np.int64]:
    """Which quarter each patch lies in, row by row: 0 and 1 above, 2 and 3 below, -1 for a middle row or column: (patches,)."""
    rows, columns = (np.sign(2 * np.arange(side) + 1 - side) for side in grid)  # -1 before the middle, 1 behind it, 0 on it
    quarter = (rows[:, np.newaxis] > 0) * 2 + (columns > 0)
    return np.where((rows[:, np.newaxis] != 0) & (columns != 0), quarter, -1).ravel()


def mosaic(pictures: Sequence[Image.Image], *, side: int = 480) -> Image.Image:
    """Four pictures, cropped to squares, on one of `side` x `side` pixels: two above, two below."""
    whole, half = Image.new("RGB", (side, side)), side // 2
    for place, picture in enumerate(pictures):
        whole.paste(ImageOps.fit(picture, (half, half), method=Image.Resampling.BICUBIC), (place % 2 * half, place // 2 * half))
    return whole


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


def _patches(pixels: NDArray[np.uint8], encoder: TokenEncoder, matcher: FusionMatcher) -> NDArray[np.float32]:
    """Of prepared pictures, as they would be stored but for quantisation: (pictures, rows, width)."""
    blocks = np.array_split(pixels, len(pixels) // 32 + 1)
    return np.concatenate([matcher.project(encoder.embed_pixels_with_tokens(block)[1]) for block in blocks if len(block)])


def _captioned(source: str, encoder: TokenEncoder, *, num_pictures: int, max_pixels: int) -> tuple[list[str], list[Image.Image]]:
    """The first caption of each of so many pictures, spread evenly over those that have one, and these."""
    captions: list[str] = []
    pictures: list[Image.Image] = []
    captioned = [item for item in scan_pictures(open_source(source, None)).items if item.text]
    for place in np.linspace(0, len(captioned) - 1, min(num_pictures, len(captioned))).astype(int).tolist():
        item = captioned[place]
        source_bytes = picture_at(Path(item.location))
        decoded = decode_image(source_bytes, name=item.key, max_pixels=max_pixels, target_side=encoder.image_side)
        captions.append((item.text or "").split("\n")[0])
        pictures.append(decoded.image)
    return captions, pictures


if __name__ == "__main__":
    sys.exit(main())
