"""An image backbone with the weights that its library distributes: found on this machine, or fetched once.

Left to themselves the libraries ask their hub although the cache holds the weights, retry for most of a minute without a network, and name
neither the place that was asked nor the cache.
"""

import hashlib
import logging
import re
import shutil
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from torch import nn

from sightline.encoders.checkpoint import replacing
from sightline.encoders.hub_files import HUB_TIMEOUT_S, HubAccess, find_weights
from sightline.encoders.image_backbone import ImageBackboneConfig, require_known
from sightline.encoders.quiet import quiet_libraries
from sightline.errors import EncoderUnavailable

logger = logging.getLogger(__name__)

WHAT_ELSE = "pass a file of weights with --image-weights FILE, or start from random ones with --from-scratch"

_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z0-9]+$")  # resnet18-f37072fd.pth begins with that SHA-256


def pretrained_image_network(config: ImageBackboneConfig, *, hub: HubAccess) -> nn.Module:
    """The library's own module with its own weights and its names of the parameters, on the CPU.

    Raises `EncoderUnavailable` for a name that the library does not know and for weights that cannot be had: with where they were looked
    for and what to do, within seconds.
    """
    require_known(config)
    match config.library:
        case "timm":
            return _from_timm(config.name, hub=hub)
        case "torchvision":
            return _from_torchvision(config.name)


def timm_settings(name: str) -> Any:
    """What timm knows of the weights that the name stands for, a `PretrainedCfg`; None where it has none.

    Raises `EncoderUnavailable` for a tag (what follows the point in `resnet18.a1_in1k`) that the network does not have.
    """
    import timm

    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(name.partition(".")[0] + ".*"))
        raise EncoderUnavailable(f"timm has no weights {name!r}; it has {known or 'none of that network'}") from error


def _from_timm(name: str, *, hub: HubAccess) -> nn.Module:
    import timm

    settings, subject = timm_settings(name), f"pretrained weights of timm's {name!r}"
    if settings is not None and settings.hf_hub_id:
        names = (settings.hf_hub_filename,) if settings.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
        path = find_weights(settings.hf_hub_id, names, hub=hub, subject=subject, what_else=WHAT_ELSE)
    elif settings is not None and settings.url:
        path = fetched(settings.url, subject=subject)
    else:
        raise EncoderUnavailable(f"{subject}: timm distributes none; {WHAT_ELSE}")
    try:
        with quiet_libraries():
            network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(path)})
    except Exception as error:  # it and the parsers of weights raise anything over files that they cannot make sense of
        raise _unreadable(path, subject=subject, error=error) from error
    return network


def _from_torchvision(name: str) -> nn.Module:
    from torchvision import models

    subject = f"pretrained weights of torchvision's {name!r}"
    weights = getattr(models.get_model_weights(name), "DEFAULT", None)
    if weights is None:
        raise EncoderUnavailable(f"{subject}: torchvision distributes none; {WHAT_ELSE}")
    path = fetched(weights.url, subject=subject)
    try:
        network: nn.Module = models.get_model(name, weights=weights)  # which finds the file where it would have put it itself
    except Exception as error:  # as torch.load does over files that are none of its own
        raise _unreadable(path, subject=subject, error=error) from error
    return network


def fetched(url: str, *, subject: str, timeout_s: float = HUB_TIMEOUT_S) -> Path:
    """The file behind `url` in torch's cache (`hub/checkpoints` inside TORCH_HOME), downloaded unless it is there.

    Raises `EncoderUnavailable` about `subject` where it cannot be had; each answer is waited for no longer than `timeout_s`.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(url).path).name
    if not path.exists():
        try:
            _download(url, path, timeout_s=timeout_s)
        except (OSError, HTTPException) as error:
            raise EncoderUnavailable(
                f"{subject} are not to be had: {path} does not exist, and {_reason(error, url=url)}. Fetch {url} where there is a network "
                f"and put it there (TORCH_HOME moves the folder), or {WHAT_ELSE}"
            ) from error
    return path


def _download(url: str, path: Path, *, timeout_s: float) -> None:
    with urlopen(Request(url, headers={"User-Agent": "sightline"}), timeout=timeout_s) as answer:
        logger.info("downloading %s to %s", url, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            with temporary.open("wb") as file:
                shutil.copyfileobj(answer, file)
            expected = _DIGEST_IN_NAME.search(path.name)
            with temporary.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if expected is not None and not digest.startswith(expected[1]):
                temporary.unlink()
                raise HTTPException("what came is not the file that its name promises")


def _reason(error: OSError | HTTPException, *, url: str) -> str:
    host = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}"
    match error:
        case HTTPError():
            return f"{host} answered {error.code}"
        case URLError():
            return f"{host} cannot be reached: {error.reason}"
        case _:
            return f"downloading from {host} failed: {error}"


def _unreadable(path: Path, *, subject: str, error: Exception) -> EncoderUnavailable:
    sentence = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return EncoderUnavailable(f"{subject}: {path} cannot be loaded: {sentence}; delete it to have it fetched again, or {WHAT_ELSE}")
