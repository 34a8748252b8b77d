"""Milliseconds of processor time that a text takes in the text encoder: `python -m benchmarks.text_encoding`.

The text side of sightline-mini in four forms, in turn, so that what else the machine does falls on all alike: with weights in float32 that
autocast casts at every call, with weights that were cast once, with weights that were packed once as well, and, as the encoder computes it,
without padding (`sightline.encoders.ragged_bert`). One thread, texts of `benchmarks.service_load`, so many at once as a service has joined.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.reporting import describe_machine, markdown_table, write_json
from benchmarks.service_load import asked
from sightline.encoders.checkpoint import open_checkpoint
from sightline.encoders.composed import autocast_dtype
from sightline.encoders.dual_encoder import TextSide
from sightline.encoders.load import bundled_folder
from sightline.encoders.packed_linear import pack_linear_layers
from sightline.encoders.ragged_bert import RaggedBert, is_plain_bert

_WARM_UP = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Milliseconds of processor time a text, by how the weights of the text encoder are held.")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 8, 16, 32], help="texts in one pass (default: 1 4 8 16 32)")
    parser.add_argument("--texts", type=int, default=640, help="of each form and number at once (default: 640)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = measure(options.at_once, num_texts=options.texts)
    print(f"{describe_machine()}\nmilliseconds of processor time a text, medians over passes\n")
    print(markdown_table(rows))
    write_json(options.json, benchmark="text_encoding", figures=rows)
    return 0


def measure(at_once: Sequence[int], *, num_texts: int) -> list[dict[str, object]]:
    """One row for each number of texts at once."""
    checkpoint = open_checkpoint(bundled_folder())
    dtype = autocast_dtype(torch.device("cpu"))
    if dtype is None:
        raise SystemExit("this processor has no instructions for bfloat16: nothing is cast, and nothing packed")
    cast_at_call = checkpoint.load_text_side()
    cast_once = copy.deepcopy(cast_at_call)
    for module in cast_once.modules():
        if isinstance(module, nn.Linear):
            module.to(dtype)
    packed = copy.deepcopy(cast_once)
    pack_linear_layers(packed)
    ragged = copy.deepcopy(cast_once)
    assert is_plain_bert(ragged.text)
    ragged.text = RaggedBert(ragged.text)
    pack_linear_layers(ragged)
    texts = [json.loads(body)["text"] for body in asked(0).bodies]
    rows = []
    for number in at_once:
        forms = {
            "cast at every call": _pass_of(cast_at_call, dtype),
            "cast once": _pass_of(cast_once, dtype),
            "packed": _pass_of(packed, dtype),
            "without padding": _pass_of(ragged, dtype),
        }
        times_ms: dict[str, list[float]] = {name: [] for name in forms}
        for turn in range(_WARM_UP + max(3, num_texts // number)):
            start = turn * number % (len(texts) - number)
            tokens = checkpoint.text_input.pad(checkpoint.text_input.token_ids(texts[start : start + number]))
            ids, mask = torch.from_numpy(tokens.token_ids), torch.from_numpy(tokens.attention_mask)
            for name, embed in forms.items():
                began = time.thread_time()
                embed(ids, mask)
                if turn >= _WARM_UP:
                    times_ms[name].append(1000 * (time.thread_time() - began) / number)
        rows.append({"texts at once": number, **{name: f"{statistics.median(each):.2f}" for name, each in times_ms.items()}})
    return rows


def _pass_of(side: TextSide, dtype: torch.dtype) -> Callable[[torch.Tensor, torch.Tensor], np.ndarray]:
    def embed(ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
            embeddings = side.embed_hidden_states(side.text_hidden_states(ids, mask), mask)
        return embeddings.float().numpy()

    return embed


if __name__ == "__main__":
    raise SystemExit(main())
