"""How well an encoder finds pictures it was not trained on: hit rates both ways, and precision@10 of class names.

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

from api.training_sources import training_sources
from sightline.encoders.encoder import Encoder
from sightline.encoders.image_input import decode_image
from sightline.encoders.load import load_encoder
from sightline.metrics import ClassPrecision, HitRates, caption_hit_rates, class_precision
from sightline.settings import DEFAULT_ENCODER
from sightline.training.pairs import CaptionedPicture
from sightline.types import Embeddings

IMAGES_PER_BATCH = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one validation set."""

    name: str
    num_pictures: int
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


def measure(encoder: Encoder, name: str, pictures: Sequence[CaptionedPicture]) -> Quality:
    """Class names are asked where every picture has a class, captions elsewhere."""
    image_embeddings = embed_pictures(encoder, pictures)
    if all(picture.class_name is not None for picture in pictures):
        text_by_class = {str(picture.class_name): picture.captions[0] for picture in pictures}
        similarities = encoder.embed_texts(list(text_by_class.values())) @ image_embeddings.T
        found = class_precision(similarities, [str(picture.class_name) for picture in pictures], list(text_by_class))
        return Quality(name, len(pictures), class_names=found)
    captions = [caption for picture in pictures for caption in picture.captions]
    picture_by_text = np.repeat(np.arange(len(pictures)), [len(picture.captions) for picture in pictures])
    text_to_image, image_to_text = caption_hit_rates(encoder.embed_texts(captions), image_embeddings, picture_by_text)
    return Quality(name, len(pictures), text_to_image, image_to_text)


def main() -> None:
    """Measure every validation set and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder of shards")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.encoder)
    sources = training_sources([arguments.shards], breadth=(), validation=())
    measured = [measure(encoder, name, pictures) for name, pictures in sources.validation.items()]
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
    return f"{quality.name} ({quality.num_pictures} pictures): {told}"


if __name__ == "__main__":
    main()
