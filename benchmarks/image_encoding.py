"""Milliseconds of processor time that a picture takes in the image networks: `python -m benchmarks.image_encoding`.

Both networks of sightline-mini, that which embeds and the second backbone of its fusion encoder, as they are loaded and as the encoder
computes them, in turn, so that what else the machine does falls on all alike: with normalisation and activation fused into the
convolutions (`sightline.encoders.fused_convolution`), which is done where the processor computes in float32. One thread, random pixels.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.reporting import describe_machine, markdown_table, write_json
from sightline.encoders.checkpoint import open_checkpoint
from sightline.encoders.device import autocast_dtype
from sightline.encoders.fused_convolution import fuse_convolutions
from sightline.encoders.fusion_checkpoint import load_fusion_checkpoint
from sightline.encoders.load import bundled_folder

_PICTURES_AT_ONCE = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Milliseconds of processor time a picture, by how the image networks are held.")
    parser.add_argument("--rounds", type=int, default=7, help="passes over 32 pictures of each form (default: 7)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    if autocast_dtype(torch.device("cpu")) is not None:
        raise SystemExit("this processor computes in bfloat16, in which nothing is fused")
    torch.set_num_threads(1)
    rows = measure(options.rounds)
    print(f"{describe_machine()}\nmilliseconds of processor time a picture, medians over passes of {_PICTURES_AT_ONCE}\n")
    print(markdown_table(rows))
    write_json(options.json, benchmark="image_encoding", figures=rows)
    return 0


def measure(num_rounds: int) -> list[dict[str, object]]:
    """One row for each network."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (_PICTURES_AT_ONCE, 224, 224, 3), dtype=np.uint8))
    model = open_checkpoint(bundled_folder()).load_model().to(memory_format=torch.channels_last)
    fused = copy.deepcopy(model)
    fuse_convolutions(fused)
    load_second = load_fusion_checkpoint(bundled_folder()).load_second_backbone
    assert load_second is not None
    second = load_second()
    reading = second.reading_on(torch.device("cpu"))
    squares = pixels.numpy()
    return [
        _row("embeds", {"as loaded": lambda: model.embed_pixels(pixels), "fused": lambda: fused.embed_pixels(pixels)}, num_rounds),
        _row("second backbone", {"as loaded": lambda: second.features(squares), "fused": lambda: reading.features(squares)}, num_rounds),
    ]


def _row(name: str, forms: dict[str, Callable[[], object]], num_rounds: int) -> dict[str, object]:
    times_ms: dict[str, list[float]] = {form: [] for form in forms}
    for number in range(num_rounds + 1):
        for form, embed in forms.items():
            began = time.thread_time()
            with torch.inference_mode():
                embed()
            if number:  # the first warms up
                times_ms[form].append(1000 * (time.thread_time() - began) / _PICTURES_AT_ONCE)
    return {"network": name, **{form: f"{statistics.median(each):.1f}" for form, each in times_ms.items()}}


if __name__ == "__main__":
    raise SystemExit(main())
