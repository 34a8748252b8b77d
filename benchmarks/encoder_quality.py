"""How well an encoder finds pictures it was not trained on: hit rates both ways, and precision@10 of class names.

Where the encoder brings banks of queries, each is measured twice: by similarity alone, and with the hubness bias taken off.

Everything goes the way of the product: pictures are decoded and prepared as when indexing, and embedded by the encoder as it is shipped.

    python -m benchmarks.encoder_quality SHARDS [--encoder sightline-mini] [--json FILE]

SHARDS is a folder of `NAME-val-*.tar` and `NAME-train-*.tar` as `sightline train` takes it; only what training leaves out is read.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from api.training_sources import training_sources
from sightline.encoders.encoder import Encoder
from sightline.encoders.image_input import decode_image
from sightline.encoders.load import load_encoder
from sightline.metrics import ClassPrecision, HitRates, best_relevant_ranks, class_precision, hit_rates
from sightline.settings import DEFAULT_ENCODER
from sightline.training.pairs import CaptionedPicture
from sightline.types import Embeddings, Modality

IMAGES_PER_BATCH = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one validation set."""

    name: str
    num_pictures: int
    has_bias: bool  # the hubness bias was taken off
    text_to_image: HitRates | None = None
    image_to_text: HitRates | None = None
    class_names: ClassPrecision | None = None


def embed_pictures(encoder: Encoder, pictures: Sequence[CaptionedPicture]) -> Embeddings:
    """(pictures, embedding_dim), through the indexer's decoder."""
    parts: list[Embeddings] = []
    for start in range(0, len(pictures), IMAGES_PER_BATCH):
        prepared = []
        for picture in pictures[start : start + IMAGES_PER_BATCH]:
            decoded = decode_image(picture.read_bytes(), name=picture.key, max_pixels=200_000_000, target_side=encoder.image_side)
            prepared.append(encoder.prepare(decoded.image))
        parts.append(encoder.embed_pixels(np.stack(prepared)))
    return np.concatenate(parts)


def measure(encoder: Encoder, name: str, pictures: Sequence[CaptionedPicture]) -> list[Quality]:
    """Class names are asked where every picture has a class, captions elsewhere."""
    image_embeddings = embed_pictures(encoder, pictures)
    classes = [picture.class_name for picture in pictures]
    has_classes = all(each is not None for each in classes)
    text_by_class = {str(picture.class_name): picture.captions[0] for picture in pictures if has_classes}
    captions = list(text_by_class.values()) if has_classes else [caption for picture in pictures for caption in picture.captions]
    picture_by_text = np.repeat(np.arange(len(pictures)), [len(picture.captions) for picture in pictures])
    text_embeddings = encoder.embed_texts(captions)
    measured = []
    for has_bias in (False, True) if encoder.query_banks else (False,):
        similarities = text_embeddings @ image_embeddings.T  # (texts, pictures)
        to_image = similarities - _bias(encoder, Modality.IMAGE, image_embeddings) * has_bias
        to_text = similarities - _bias(encoder, Modality.TEXT, text_embeddings)[:, np.newaxis] * has_bias
        if has_classes:
            found = class_precision(to_image, [str(each) for each in classes], list(text_by_class))
            measured.append(Quality(name, len(pictures), has_bias, class_names=found))
            continue
        is_relevant = picture_by_text[:, np.newaxis] == np.arange(len(pictures))
        text_to_image = hit_rates(best_relevant_ranks(to_image, is_relevant))
        image_to_text = hit_rates(best_relevant_ranks(to_text.T, is_relevant.T))
        measured.append(Quality(name, len(pictures), has_bias, text_to_image, image_to_text))
    return measured


def _bias(encoder: Encoder, modality: Modality, embeddings: Embeddings) -> NDArray[np.float32]:
    bank = encoder.query_banks.get(modality)
    return np.zeros(len(embeddings), dtype=np.float32) if bank is None else np.float32(bank.strength) * bank.biases(embeddings)


def main() -> None:
    """Measure every validation set and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder of shards")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.encoder)
    sources = training_sources([arguments.shards], breadth=(), validation=())
    measured = [quality for name, pictures in sources.validation.items() for quality in measure(encoder, name, pictures)]
    for quality in measured:
        print(_line(quality))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([dataclasses.asdict(quality) for quality in measured], indent=2) + "\n")


def _line(quality: Quality) -> str:
    if quality.class_names is not None:
        found = quality.class_names
        told = f"precision@10 of {found.num_queries} names {found.precision_at_10:.1f}, {found.num_without_hit} with nothing right"
    else:
        told = f"text-to-image {quality.text_to_image}, image-to-text {quality.image_to_text}"
    how = ", hubness bias taken off" if quality.has_bias else ""
    return f"{quality.name} ({quality.num_pictures} pictures{how}): {told}"


if __name__ == "__main__":
    main()
