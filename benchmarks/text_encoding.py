"""Milliseconds of processor time that a text takes in the text encoder: `python -m benchmarks.text_encoding`.

The text side of sightline-mini in several forms, in turn, so that what else the machine does falls on all alike: in float32; where the
processor has bfloat16, with weights that autocast casts at every call, and with weights that were cast once; with weights that were packed
once, in the type that the encoder computes in; and, as it computes them, without padding (`sightline.encoders.ragged_bert`). One thread,
texts of `benchmarks.service_load`, so many at once as a service has joined.
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
from sightline.encoders.device import autocast_dtype
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
    forms = _forms(checkpoint.load_text_side(), autocast_dtype(torch.device("cpu")))
    texts = [json.loads(body)["text"] for body in asked(0).bodies]
    rows = []
    for number in at_once:
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


def _forms(loaded: TextSide, dtype: torch.dtype | None) -> dict[str, Callable[[torch.Tensor, torch.Tensor], np.ndarray]]:
    """The last of them is the encoder's; `dtype` is what autocast computes in, if it does."""
    forms = {"float32": _pass_of(loaded, None)}
    held = loaded
    if dtype is not None:
        forms["cast at every call"] = _pass_of(loaded, dtype)
        held = copy.deepcopy(loaded)
        for module in held.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
        forms["cast once"] = _pass_of(held, dtype)
    packed, ragged = copy.deepcopy(held), copy.deepcopy(held)
    pack_linear_layers(packed, dtype or torch.float32)
    assert is_plain_bert(ragged.text, dtype or torch.float32)
    ragged.text = RaggedBert(ragged.text)
    pack_linear_layers(ragged, dtype or torch.float32)
    return forms | {"packed": _pass_of(packed, dtype), "without padding": _pass_of(ragged, dtype)}


def _pass_of(side: TextSide, dtype: torch.dtype | None) -> Callable[[torch.Tensor, torch.Tensor], np.ndarray]:
    def embed(ids: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            embeddings = side.embed_hidden_states(side.text_hidden_states(ids, mask), mask)
        return embeddings.float().numpy()

    return embed


if __name__ == "__main__":
    raise SystemExit(main())
