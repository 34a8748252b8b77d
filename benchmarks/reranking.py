"""Milliseconds of a second look at 64 candidates, stored or decoded and encoded again: `python -m benchmarks.reranking`.

A store is filled with pictures and their patches. Each query is asked twice, in turn:

- stored: a search with a second look at the first `--depth` candidates, over patches that indexing stored. What is timed is the search's
  own stage: reading patches and priors from memory maps, the fusion encoder, and the new order. The words' tokens come with their
  embedding, which the first stage needs as well.
- anew: the same candidates' files decoded and run through the image encoder, as it would have to be done without a patch store. Decoding
  runs on all cores. Reading them by the fusion encoder would come on top and is not counted.

CPU time is given as well, which other processes on the machine change little; with `OMP_NUM_THREADS=1` nobody waits busily in it.

The fusion encoder is the one that comes with the encoder, or `--fusion`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, cast

import numpy as np

from api import open_store
from api.encoder_shelf import EncoderShelf
from api.library import Sightline
from benchmarks.photographs import add_picture_options, pictures_of
from benchmarks.reporting import describe_machine, markdown_table, write_json
from search.engine import Answer
from search.readers import reader_of_patches
from search.rerank import Reranking
from sightline.encoders.image_input import decode_image
from sightline.encoders.tokens import TokenEncoder
from sightline.settings import Settings, load_settings
from sightline.types import Modality

THINGS = ("dog", "child in a red coat", "man on a bicycle", "boat", "group of people", "horse", "woman with a camera", "bird")
PLACES = ("on the beach", "in the snow", "beside a lake", "in front of a house", "under a tree", "on a busy street")
WARM_UP_QUERIES = 5

Result = TypeVar("Result")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Milliseconds of a second look, beside decoding and encoding the candidates again.")
    add_picture_options(parser, num_pictures=512)
    parser.add_argument("--depth", type=int, default=64, help="candidates that are read (default: 64)")
    parser.add_argument("--queries", type=int, default=100, help="how many are timed (default: 100)")
    parser.add_argument("--anew-queries", type=int, default=10, help="how many of them also read their pictures anew (default: 10)")
    parser.add_argument("--fusion", help="the fusion encoder (default: the one that comes with the encoder)")
    parser.add_argument("--scratch", type=Path, help="where stores are made (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(dir=options.scratch, prefix="reranking-") as folder, pictures_of(options, scratch=Path(folder)) as pictures:
        settings = load_settings(store=Path(folder) / "store", fusion=options.fusion)
        with open_store(settings=settings) as sightline:
            sightline.index(pictures[0].parent)
            rows = measure(sightline, settings, depth=options.depth, num_queries=options.queries, num_anew=options.anew_queries)
    print(describe_machine())
    print()
    print(markdown_table(rows))
    if options.json is not None:
        write_json(options.json, benchmark="reranking", figures=rows)
    return 0


def measure(sightline: Sightline, settings: Settings, *, depth: int, num_queries: int, num_anew: int) -> list[dict[str, object]]:
    """One row a way to read the candidates."""
    shelf = EncoderShelf(None, settings=settings)
    record = sightline.collection("default")
    encoder = cast(TokenEncoder, shelf.for_collection(record))
    assert reader_of_patches(shelf.matcher_for(record)) is not None, "the encoder brings no fusion encoder: name one with --fusion"
    encoder.load(Modality.IMAGE)
    texts = [f"a {thing} {place}" for place in PLACES for thing in THINGS]
    stored: list[Taken] = []
    whole: list[Taken] = []
    anew: list[Taken] = []
    for number in range(num_queries + WARM_UP_QUERIES):
        text = texts[number % len(texts)]
        _, first_stage = timed(partial(sightline.search, text, k=depth, reranking=None))
        answer, both_stages = timed(partial(sightline.search, text, k=depth, reranking=Reranking(depth=depth)))
        assert answer.reranked is not None
        assert answer.reranked.num_read == len(answer) == depth
        if number < WARM_UP_QUERIES:
            continue
        stored.append(Taken(answer.timings.rerank_ms, both_stages.cpu_ms - first_stage.cpu_ms))
        whole.append(both_stages)
        if len(anew) < num_anew and number % max(1, num_queries // num_anew) == 0:
            _, taken = timed(partial(encode_anew, answer, encoder, max_pixels=settings.max_pixels))
            anew.append(taken)
    return [
        _row("stored patches", stored, anew),
        _row("decoded and encoded anew", anew, anew),
        _row("the whole search, stored patches", whole, anew),
    ]


@dataclass(frozen=True, slots=True)
class Taken:
    """What something took."""

    wall_ms: float
    cpu_ms: float  # of all threads; what other processes do to the wall's clock is not in it


def timed(work: Callable[[], Result]) -> tuple[Result, Taken]:
    """What `work` gives, and what it took."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    result = work()
    return result, Taken((time.perf_counter() - wall_s) * 1000, (time.process_time() - cpu_s) * 1000)


def encode_anew(answer: Answer, encoder: TokenEncoder, *, max_pixels: int) -> None:
    """The hits' files, from disk to tokens."""
    with ThreadPoolExecutor() as executor:
        pixels = list(executor.map(lambda hit: _prepared(Path(hit.location), encoder, max_pixels=max_pixels), answer))
    for start in range(0, len(pixels), 32):
        encoder.embed_pixels_with_tokens(np.stack(pixels[start : start + 32]))


def _prepared(path: Path, encoder: TokenEncoder, *, max_pixels: int) -> np.ndarray:
    return encoder.prepare(decode_image(path, name=str(path), max_pixels=max_pixels, target_side=encoder.image_side).image)


def _row(name: str, taken: Sequence[Taken], anew: Sequence[Taken]) -> dict[str, object]:
    walls = [each.wall_ms for each in taken]
    cpu_ms, cpu_ms_anew = (statistics.median(each.cpu_ms for each in some) for some in (taken, anew))
    return {
        "": name,
        "fastest ms": round(min(walls), 1),
        "p50 ms": round(statistics.median(walls), 1),
        "p95 ms": round(float(np.percentile(walls, 95)), 1),
        "times faster than anew": round(statistics.median(each.wall_ms for each in anew) / statistics.median(walls), 1),
        "CPU ms, p50": round(cpu_ms, 1),
        "times less CPU than anew": round(cpu_ms_anew / cpu_ms, 1),
        "queries": len(taken),
    }


if __name__ == "__main__":
    sys.exit(main())
