"""Where the files of a Hugging Face model are: a folder, the hub's cache on this machine, or the hub itself.

The cache comes before the network: a collection is bound to one encoder fingerprint, so a model that changes on the hub must not change
under it, and a machine that was once prepared needs no network again.
"""

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # public, but not listed in `__all__`

from sightline.errors import EncoderUnavailable, InvalidCheckpoint

logger = logging.getLogger(__name__)

HUB_TIMEOUT_S = 5.0
"""For the first answer of the hub: without a network a person should read why within seconds, not after retries."""

CONFIG_NAME = "config.json"
IMAGE_PROCESSOR_NAMES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_NAMES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")
SMALL_FILE_NAMES = frozenset(
    {CONFIG_NAME, *IMAGE_PROCESSOR_NAMES, *TOKENIZER_NAMES}
    | {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"}
)
_WEIGHT_STEMS = (("model", "safetensors"), ("pytorch_model", "bin"))  # the order in which transformers looks for them


@dataclass(frozen=True, slots=True)
class HubAccess:
    """How the hub is reached; `from_environment` reads what the hub's own tools read."""

    endpoint: str
    cache_folder: Path
    is_offline: bool
    timeout_s: float = HUB_TIMEOUT_S

    @classmethod
    def from_environment(cls) -> Self:
        """As HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE said when the process began."""
        return cls(endpoint=constants.ENDPOINT, cache_folder=Path(constants.HF_HUB_CACHE).expanduser(), is_offline=constants.HF_HUB_OFFLINE)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A folder that holds a whole model."""

    name: str  # the hub id, or the folder as an absolute path
    folder: Path
    file_names: tuple[str, ...]  # those that make the model, sorted


def find_model(spec: str, *, hub: HubAccess) -> ModelFiles:
    """The files of the model that `spec` names: a folder, else a hub id, downloaded unless the cache has it.

    Raises `EncoderUnavailable` with what was asked for, where it was looked for and what to do.
    """
    folder = Path(spec).expanduser()
    if spec and folder.is_dir():
        return _model_in(folder.resolve(), name=str(folder.resolve()))
    cached = _cached_folder(spec, hub=hub)
    if cached is not None:
        return _model_in(cached, name=spec)
    if hub.is_offline:
        _refuse_unreachable(spec, hub=hub, reason="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids to ask the hub")
    return _model_in(_download(spec, hub=hub), name=spec)


def model_file_names(names: Collection[str]) -> list[str]:
    """Of the names in a folder or repository those that make a model, sorted: one set of weights, never two."""
    return sorted([name for name in names if name in SMALL_FILE_NAMES] + weight_names(names))


def weight_names(names: Collection[str]) -> list[str]:
    """The files of the weights that transformers would read: one file or all shards and their index; empty without a whole set."""
    for stem, suffix in _WEIGHT_STEMS:
        if f"{stem}.{suffix}" in names:
            return [f"{stem}.{suffix}"]
        index = f"{stem}.{suffix}.index.json"
        shards = sorted(name for name in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", name))
        if index in names and shards and len(shards) == int(shards[0].removesuffix(f".{suffix}").rpartition("-")[2]):
            return [index, *shards]
    return []


def missing_parts(names: Collection[str]) -> list[str]:
    """What a model needs and `names` lacks, in words; empty for a whole model."""
    has_part_by_name = {
        CONFIG_NAME: CONFIG_NAME in names,
        "weights (model.safetensors or pytorch_model.bin, all of its shards)": bool(weight_names(names)),
        f"an image processor ({IMAGE_PROCESSOR_NAMES[0]})": any(name in names for name in IMAGE_PROCESSOR_NAMES),
        "a tokeniser (tokenizer.json)": any(name in names for name in TOKENIZER_NAMES),
    }
    return [part for part, is_there in has_part_by_name.items() if not is_there]


def _model_in(folder: Path, *, name: str) -> ModelFiles:
    names = _names_in(folder)
    missing = missing_parts(names)
    if missing:
        raise InvalidCheckpoint(
            f"encoder {name!r}: {folder} holds no whole model, it lacks {', '.join(missing)}; "
            "pass a folder that `save_pretrained` of model, image processor and tokeniser wrote, or that `hf download` filled"
        )
    return ModelFiles(name=name, folder=folder, file_names=tuple(model_file_names(names)))


def _names_in(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir() if path.is_file()}
    except OSError as error:
        raise EncoderUnavailable(f"encoder {str(folder)!r}: the folder cannot be read: {error.strerror}") from error


def _cached_folder(repo_id: str, *, hub: HubAccess) -> Path | None:
    """The snapshot of the repository's main branch in the cache, if all of it is there."""
    try:
        config = try_to_load_from_cache(repo_id, CONFIG_NAME, cache_dir=hub.cache_folder)
    except HFValidationError as error:
        raise EncoderUnavailable(
            f"encoder {repo_id!r}: there is no such folder, and it cannot be a hub id (owner/name) either; check the path"
        ) from error
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return None if missing_parts(_names_in(folder)) else folder


def _download(repo_id: str, *, hub: HubAccess) -> Path:
    try:
        listing = HfApi(endpoint=hub.endpoint).model_info(repo_id, timeout=hub.timeout_s)
        names = [sibling.rfilename for sibling in listing.siblings or ()]
        missing = missing_parts(names)
        if missing:
            raise InvalidCheckpoint(f"encoder {repo_id!r}: the repository on {hub.endpoint} lacks {', '.join(missing)}")
        logger.info("encoder %s: downloading from %s into %s", repo_id, hub.endpoint, hub.cache_folder)
        with disable_progress_bars():
            folder = snapshot_download(
                repo_id,
                cache_dir=hub.cache_folder,
                endpoint=hub.endpoint,
                etag_timeout=hub.timeout_s,
                allow_patterns=model_file_names(names),
            )
    except InvalidCheckpoint:
        raise
    except Exception as error:  # noqa: BLE001  # the hub's client raises what its HTTP library, the disk or its own parsers raise
        _refuse_unreachable(repo_id, hub=hub, reason=_reason(error, endpoint=hub.endpoint), error=error)
    return Path(folder)


def _reason(error: Exception, *, endpoint: str) -> str:
    match error:
        case GatedRepoError():
            return f"{endpoint} asks to accept the model's terms first (on its page), then for a token in HF_TOKEN or from `hf auth login`"
        case RepositoryNotFoundError():
            return f"{endpoint} has no such model, or it is private and wants a token in HF_TOKEN or from `hf auth login`"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids to ask the hub"
        case HfHubHTTPError():
            return f"{endpoint} answered {error.response.status_code}"
        case OSError() if error.strerror:
            return f"downloading from {endpoint} failed: {error.strerror}"
        case _:
            cause = str(error).strip().splitlines()
            return f"{endpoint} cannot be reached: {cause[0] if cause else type(error).__name__}"


def _refuse_unreachable(repo_id: str, *, hub: HubAccess, reason: str, error: Exception | None = None) -> NoReturn:
    raise EncoderUnavailable(
        f"encoder {repo_id!r} is not to be had: there is no folder of that name here, the hub's cache {hub.cache_folder} does not hold "
        f"all of it, and {reason}. Run `hf download {repo_id}` where there is a network and point HF_HUB_CACHE (or HF_HOME) at that cache, "
        "or pass the folder of a model"
    ) from error
