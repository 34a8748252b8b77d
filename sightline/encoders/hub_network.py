"""A network of transformers from the files of a model, and what is wrong with them as sentences of ours."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from transformers import PreTrainedModel

from sightline.encoders.device import weights_dtype
from sightline.encoders.hub_files import CONFIG_NAME, ModelFiles, ModelKind
from sightline.encoders.quiet import quiet_libraries
from sightline.errors import EncoderUnavailable, InvalidCheckpoint

Network = TypeVar("Network", bound=PreTrainedModel)


def model_type(files: ModelFiles, *, kind: ModelKind) -> str:
    """What `config.json` says the network is, such as `clip`. Raises `InvalidCheckpoint` where it says nothing."""
    try:
        config = json.loads((files.folder / CONFIG_NAME).read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidCheckpoint(f"{kind.noun} {files.name!r}: {files.folder / CONFIG_NAME} names no model type: {error!r}") from error


def load_network(
    model_class: type[Network], files: ModelFiles, *, device: torch.device, if_tensors_lack: str = "is it half of a model?"
) -> Network:
    """The network for inference on `device`, in evaluation mode.

    Raises `InvalidCheckpoint` for weights without all of its tensors, and whatever transformers and its parsers raise over files that they
    cannot make sense of; `naming` translates both.
    """
    # with `output_loading_info` it gives a pair, of which its annotation knows nothing
    loaded: Any = model_class.from_pretrained(files.folder, dtype=weights_dtype(device), local_files_only=True, output_loading_info=True)
    model, report = cast(tuple[Network, dict[str, set[str]]], loaded)
    if report["missing_keys"]:  # transformers would leave them random
        missing = sorted(report["missing_keys"])
        raise InvalidCheckpoint(f"its weights lack {len(missing)} of the network's tensors, {missing[0]} among them; {if_tensors_lack}")
    model.requires_grad_(False)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` without its annotation
    return model  # in evaluation mode: `from_pretrained` leaves it so


@contextmanager
def naming(files: ModelFiles, *, kind: ModelKind) -> Iterator[None]:
    """Whatever goes wrong with the files inside becomes an `EncoderUnavailable` that names the model; the libraries stay quiet."""
    with quiet_libraries():
        try:
            yield
        except EncoderUnavailable as error:
            raise type(error)(f"{kind.noun} {files.name!r}: {error}") from error
        except Exception as error:  # transformers and its parsers raise anything over files they cannot make sense of
            raise InvalidCheckpoint(f"{kind.noun} {files.name!r}: {files.folder} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
