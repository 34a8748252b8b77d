"""Images a second of the indexer, beside a plain loop and beside its own parts alone: `python -m benchmarks.indexing`.

Four things run over the same pictures, in turn, several times over; the table has medians, so that a machine that is busy with
something else now and then spoils none of the ratios.

- index: `index_source` into a new store, from the first look at the folder to the last commit.
- plain loop: Pillow opens a picture, the processor prepares it, the network runs; one picture at a time, as examples show it.
- network alone: on tensors that are ready, in the indexer's batches.
- decode alone: what the indexer's threads do, with no network beside it.

Where decoding and network share the cores (no GPU), the two together allow 1 / (1 / decode + 1 / network) images a second.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, CLIPModel

from benchmarks.networks import mini_folder, save_vit_b_32
from benchmarks.photographs import add_picture_options, pictures_of
from benchmarks.reporting import describe_machine, markdown_table, num_cores, write_json
from indexer.options import IndexOptions
from indexer.pipeline import index_source
from indexer.sources.opening import open_source
from sightline.encoders.device import choose_device, weights_dtype
from sightline.encoders.encoder import Encoder
from sightline.encoders.image_input import decode_image
from sightline.encoders.load import load_encoder
from sightline.storage.store import Store

MAX_PIXELS = 200_000_000


@dataclass(frozen=True, slots=True)
class Subject:
    """An encoder and its peers."""

    name: str
    encoder: Encoder
    embed_file: Callable[[Path], Any]  # one step of the plain loop
    embed_ready: Callable[[Any], Any]  # the network alone, on a batch as `ready` makes it
    ready: Callable[[Sequence[Path]], Any]


@dataclass(frozen=True, slots=True)
class Rates:
    """Images a second."""

    index: float
    plain_loop: float
    network_alone: float
    decode_alone: float

    @property
    def allowed(self) -> float:
        """What decoding and network allow: one after the other on the same cores, or side by side where a GPU runs the network."""
        if torch.cuda.is_available():
            return min(self.decode_alone, self.network_alone)
        return 1 / (1 / self.decode_alone + 1 / self.network_alone)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Images a second of the indexer, beside a plain loop and its own parts alone.")
    parser.add_argument("--encoder", choices=["vit-b-32", "sightline-mini", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is measured (default: 5)")
    parser.add_argument("--loop-pictures", type=int, default=64, help="pictures of the plain loop (default: 64)")
    parser.add_argument("--batch-images", type=int, default=IndexOptions().batch_images)
    parser.add_argument("--scratch", type=Path, help="folder for pictures and stores (default: the system's)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    add_picture_options(parser, num_pictures=640)
    options = parser.parse_args(arguments)
    with TemporaryDirectory(dir=options.scratch, prefix="indexing-") as name, pictures_of(options, scratch=Path(name)) as paths:
        subjects = {"vit-b-32": _vit_b_32, "sightline-mini": _sightline_mini}
        chosen = [build for encoder, build in subjects.items() if options.encoder in (encoder, "both")]
        figures = {}
        for build in chosen:
            subject = build(Path(name))
            figures[subject.name] = measure(subject, paths, options=options, scratch=Path(name))
    print(f"{describe_machine()}\n{len(paths)} pictures, batches of {options.batch_images}, medians of {options.rounds} rounds\n")
    print(markdown_table([_table_row(subject, rounds) for subject, rounds in figures.items()]))
    write_json(options.json, benchmark="indexing", figures={name: [asdict(one) for one in rounds] for name, rounds in figures.items()})
    return 0


def measure(subject: Subject, paths: Sequence[Path], *, options: argparse.Namespace, scratch: Path) -> list[Rates]:
    """One entry a round, everything measured once in each."""
    looped, num_batches = paths[: options.loop_pictures], math.ceil(len(paths) / options.batch_images)
    batches = [subject.ready(paths[start : start + options.batch_images]) for start in range(0, len(looped), options.batch_images)]
    _warm_up(subject, looped, batches)
    rounds = []
    for number in range(1, options.rounds + 1):
        num_ready = sum(len(batch) for batch in islice(cycle(batches), num_batches))
        rates = Rates(
            index=_index_rate(subject, paths, options=options, scratch=scratch),
            network_alone=num_ready / _seconds(lambda: [subject.embed_ready(batch) for batch in islice(cycle(batches), num_batches)]),
            plain_loop=len(looped) / _seconds(lambda: [subject.embed_file(path) for path in looped]),
            decode_alone=len(paths) / _seconds(lambda: _decode(subject.encoder, paths)),
        )
        rounds.append(rates)
        print(f"{subject.name} round {number}: {rates}", file=sys.stderr)
    return rounds


def _vit_b_32(scratch: Path) -> Subject:
    """A hub encoder; its peers are transformers' own classes over the same files."""
    folder = save_vit_b_32(scratch / "vit-b-32")
    encoder = load_encoder(str(folder))
    device = choose_device("auto")
    processor: Any = AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    model: Any = CLIPModel.from_pretrained(folder, dtype=weights_dtype(device)).to(device)  # type: ignore[arg-type]

    def ready(paths: Sequence[Path]) -> Any:
        pictures = [Image.open(path).convert("RGB") for path in paths]
        return processor(images=pictures, return_tensors="pt")["pixel_values"].to(device)

    @torch.inference_mode()
    def embed(pixels: Any) -> Any:
        return model.get_image_features(pixel_values=pixels).pooler_output.float().cpu()

    return Subject("ViT-B/32", encoder, embed_file=lambda path: embed(ready([path])), embed_ready=embed, ready=ready)


def _sightline_mini(scratch: Path) -> Subject:
    """The composed encoder; its peers are its own two halves."""
    encoder = load_encoder(str(mini_folder(scratch)))

    def ready(paths: Sequence[Path]) -> NDArray[Any]:
        return np.stack([encoder.prepare(Image.open(path).convert("RGB")) for path in paths])

    return Subject(
        "sightline-mini",
        encoder,
        embed_file=lambda path: encoder.embed_pixels(ready([path])),
        embed_ready=encoder.embed_pixels,
        ready=ready,
    )


def _warm_up(subject: Subject, paths: Sequence[Path], batches: Sequence[Any]) -> None:
    """The first pass chooses kernels and fills caches."""
    subject.encoder.embed_pixels(np.stack([subject.encoder.prepare(Image.open(path).convert("RGB")) for path in paths]))
    for path, batch in zip(paths, batches, strict=False):
        subject.embed_file(path)
        subject.embed_ready(batch)


def _index_rate(subject: Subject, paths: Sequence[Path], *, options: argparse.Namespace, scratch: Path) -> float:
    with TemporaryDirectory(dir=scratch, prefix="store-") as name, Store.open(Path(name)) as store:
        source = open_source(paths[0].parent)
        index_options = IndexOptions(batch_images=options.batch_images)
        seconds = _seconds(lambda: index_source(store, "benchmark", source, subject.encoder, options=index_options))
        num_items = store.snapshot(store.collection("benchmark").collection_id).num_items()
        assert num_items == len(paths), f"{num_items} of {len(paths)} pictures were indexed"
        return num_items / seconds


def _decode(encoder: Encoder, paths: Sequence[Path]) -> None:
    def prepare(path: Path) -> None:
        encoder.prepare(decode_image(path, name=path.name, max_pixels=MAX_PIXELS, target_side=encoder.image_side).image)

    with ThreadPoolExecutor(num_cores()) as executor:
        list(executor.map(prepare, paths))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _table_row(name: str, rounds: Sequence[Rates]) -> dict[str, object]:
    """Medians; the ratios are medians of each round's own."""

    def median(figure: Callable[[Rates], float]) -> float:
        return statistics.median(figure(rates) for rates in rounds)

    return {
        "encoder": name,
        "index": f"{median(lambda rates: rates.index):.1f}",
        "plain loop": f"{median(lambda rates: rates.plain_loop):.1f}",
        "network alone": f"{median(lambda rates: rates.network_alone):.1f}",
        "decode alone": f"{median(lambda rates: rates.decode_alone):.1f}",
        "both allow": f"{median(lambda rates: rates.allowed):.1f}",
        "index / loop": f"{median(lambda rates: rates.index / rates.plain_loop):.2f}",
        "index / network": f"{median(lambda rates: rates.index / rates.network_alone):.0%}",
        "index / both allow": f"{median(lambda rates: rates.index / rates.allowed):.0%}",
    }


if __name__ == "__main__":
    sys.exit(main())
