"""Where the files of a Hugging Face model are: a folder, the hub's cache on this machine, or the hub itself.

The cache comes before the network: a collection is bound to one encoder fingerprint, so a model that changes on the hub must not change
under it, and a machine that was once prepared needs no network again.
"""

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
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
_TEXT_TOKENIZER_NAMES = ("vocab.txt", "sentencepiece.bpe.model")
"""Of text models alone: what counts as a file of an encoder decides its fingerprint, and stays as it is."""

_WEIGHT_STEMS = (("model", "safetensors"), ("pytorch_model", "bin"))  # the order in which transformers looks for them


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What a model has to be made of, besides configuration and weights."""

    noun: str  # in messages
    tokenizer_names: tuple[str, ...]  # one of them
    has_image_processor: bool

    @property
    def parts(self) -> str:
        """What `save_pretrained` is called on."""
        return "model, image processor and tokeniser" if self.has_image_processor else "model and tokeniser"


ENCODER = ModelKind("encoder", TOKENIZER_NAMES, has_image_processor=True)
PICTURE_MATCHER = ModelKind("fusion encoder", (*TOKENIZER_NAMES, "vocab.txt"), has_image_processor=True)
TEXT_BACKBONE = ModelKind("text backbone", (*TOKENIZER_NAMES, *_TEXT_TOKENIZER_NAMES), has_image_processor=False)


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


def find_model(spec: str, *, hub: HubAccess, kind: ModelKind = ENCODER) -> ModelFiles:
    """The files of the model that `spec` names: a folder, else a hub id, downloaded unless the cache has it.

    Raises `EncoderUnavailable` with what was asked for, where it was looked for and what to do.
    """
    folder = Path(spec).expanduser()
    if spec and folder.is_dir():
        return _model_in(folder.resolve(), name=str(folder.resolve()), kind=kind)
    cached = _cached_folder(spec, hub=hub, kind=kind)
    if cached is not None:
        return _model_in(cached, name=spec, kind=kind)
    return _model_in(_download(spec, hub=hub, kind=kind), name=spec, kind=kind)


def find_weights(repo_id: str, names: Sequence[str], *, hub: HubAccess, subject: str, what_else: str) -> Path:
    """The first file of `names` that the hub's cache has of a repository, else the first that the hub has, downloaded.

    Raises `EncoderUnavailable`, which says of `subject` where it was looked for, and to do `what_else` where there is no network.
    """
    for name in names:
        cached = try_to_load_from_cache(repo_id, name, cache_dir=hub.cache_folder)
        if isinstance(cached, str):
            return Path(cached)
    try:
        there = _names_on(hub, repo_id)
        found = next((name for name in names if name in there), None)
        if found is None:
            raise EncoderUnavailable(f"{subject}: {repo_id} on {hub.endpoint} has no {' and no '.join(names)}; {what_else}")
        logger.info("%s: downloading from %s into %s", repo_id, hub.endpoint, hub.cache_folder)
        with disable_progress_bars():
            path = hf_hub_download(repo_id, found, cache_dir=hub.cache_folder, endpoint=hub.endpoint, etag_timeout=hub.timeout_s)
    except EncoderUnavailable:
        raise
    except Exception as error:  # as in `_download`
        raise EncoderUnavailable(
            f"{subject} are not to be had: the hub's cache {hub.cache_folder} does not hold those of {repo_id}, and "
            f"{_reason(error, endpoint=hub.endpoint)}. {_how_to_prepare(repo_id)}, or {what_else}"
        ) from error
    return Path(path)


def model_file_names(names: Collection[str], *, kind: ModelKind = ENCODER) -> list[str]:
    """Of the names in a folder or repository those that make a model, sorted: one set of weights, never two."""
    small = SMALL_FILE_NAMES.union(kind.tokenizer_names).difference(() if kind.has_image_processor else IMAGE_PROCESSOR_NAMES)
    return sorted([name for name in names if name in small] + weight_names(names))


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


def missing_parts(names: Collection[str], *, kind: ModelKind = ENCODER) -> list[str]:
    """What a model needs and `names` lacks, in words; empty for a whole model."""
    has_part_by_name = {
        CONFIG_NAME: CONFIG_NAME in names,
        "weights (model.safetensors or pytorch_model.bin, all of its shards)": bool(weight_names(names)),
        f"an image processor ({IMAGE_PROCESSOR_NAMES[0]})": not kind.has_image_processor
        or any(name in names for name in IMAGE_PROCESSOR_NAMES),
        "a tokeniser (tokenizer.json)": any(name in names for name in kind.tokenizer_names),
    }
    return [part for part, is_there in has_part_by_name.items() if not is_there]


def _model_in(folder: Path, *, name: str, kind: ModelKind) -> ModelFiles:
    names = _names_in(folder, kind=kind)
    missing = missing_parts(names, kind=kind)
    if missing:
        raise InvalidCheckpoint(
            f"{kind.noun} {name!r}: {folder} holds no whole model, it lacks {', '.join(missing)}; "
            f"pass a folder that `save_pretrained` of {kind.parts} wrote, or that `hf download` filled"
        )
    return ModelFiles(name=name, folder=folder, file_names=tuple(model_file_names(names, kind=kind)))


def _names_in(folder: Path, *, kind: ModelKind) -> set[str]:
    try:
        return {path.name for path in folder.iterdir() if path.is_file()}
    except OSError as error:
        raise EncoderUnavailable(f"{kind.noun} {str(folder)!r}: the folder cannot be read: {error.strerror}") from error


def _cached_folder(repo_id: str, *, hub: HubAccess, kind: ModelKind) -> Path | None:
    """The snapshot of the repository's main branch in the cache, if all of it is there."""
    try:
        config = try_to_load_from_cache(repo_id, CONFIG_NAME, cache_dir=hub.cache_folder)
    except HFValidationError as error:
        raise EncoderUnavailable(
            f"{kind.noun} {repo_id!r}: there is no such folder, and it cannot be a hub id (owner/name) either; check the path"
        ) from error
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return None if missing_parts(_names_in(folder, kind=kind), kind=kind) else folder


def _download(repo_id: str, *, hub: HubAccess, kind: ModelKind) -> Path:
    try:
        names = _names_on(hub, repo_id)
        missing = missing_parts(names, kind=kind)
        if missing:
            raise InvalidCheckpoint(f"{kind.noun} {repo_id!r}: the repository on {hub.endpoint} lacks {', '.join(missing)}")
        logger.info("%s %s: downloading from %s into %s", kind.noun, repo_id, hub.endpoint, hub.cache_folder)
        with disable_progress_bars():
            folder = snapshot_download(
                repo_id,
                cache_dir=hub.cache_folder,
                endpoint=hub.endpoint,
                etag_timeout=hub.timeout_s,
                allow_patterns=model_file_names(names, kind=kind),
            )
    except InvalidCheckpoint:
        raise
    except Exception as error:  # the hub's client raises what its HTTP library, the disk or its own parsers raise
        raise EncoderUnavailable(
            f"{kind.noun} {repo_id!r} is not to be had: there is no folder of that name here, the hub's cache {hub.cache_folder} does not "
            f"hold all of it, and {_reason(error, endpoint=hub.endpoint)}. {_how_to_prepare(repo_id)}, or pass the folder of a model"
        ) from error
    return Path(folder)


def _names_on(hub: HubAccess, repo_id: str) -> list[str]:
    """The repository's files; asks once, and raises whatever the hub's client, its HTTP library or the disk raise."""
    if hub.is_offline:
        raise OfflineModeIsEnabled
    listing = HfApi(endpoint=hub.endpoint).model_info(repo_id, timeout=hub.timeout_s)
    return [sibling.rfilename for sibling in listing.siblings or ()]


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


def _how_to_prepare(repo_id: str) -> str:
    return f"Run `hf download {repo_id}` where there is a network and point HF_HUB_CACHE (or HF_HOME) at that cache"
