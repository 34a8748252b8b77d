"""A whole training run: from captioned pictures to a checkpoint folder."""

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.encoders.checkpoint import CARD_NAME, save_checkpoint, save_query_banks
from sightline.encoders.dual_encoder import DualEncoder
from sightline.errors import InvalidTraining
from sightline.training.alignment_head import load_alignment
from sightline.training.backbones import PACKAGED_IMAGE_WEIGHTS, Start, StartOptions, start_dual_encoder
from sightline.training.batches import TrainingSet, tokenised_captions
from sightline.training.class_names import ClassNames, imagenet_class_names
from sightline.training.feature_cache import CachedViews, cache_views
from sightline.training.options import FitOptions
from sightline.training.pairs import CaptionedPicture, check_measurable, check_trainable
from sightline.training.query_banks import BankQueries, EmbeddedValidation, fitted_banks, strengths_told
from sightline.training.shared_space import FitListener, SharedSpaceTrainer
from sightline.training.validation import ValidationFigures, ValidationSet, embed_captions, embed_views
from sightline.types import JsonObject

logger = logging.getLogger(__name__)

_RECIPE = "recipe.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that, with the pictures, decides what comes out."""

    start: StartOptions = field(default_factory=StartOptions)
    fit: FitOptions = field(default_factory=FitOptions)
    num_views: int = 5  # cached views of a captioned picture
    breadth_pictures_per_epoch: int = 600  # how many of the breadth pictures join in an epoch: more would drown the captions
    has_class_names: bool = False  # carry the backbone's classifier over, see `class_names`


def mini_recipe() -> Recipe:
    """What sightline-mini is made by."""
    start = StartOptions(num_frozen_stages=5, pools_stages=True, has_kept_branch=True)
    fit = FitOptions(epochs=14, projection_epochs=40, last_projection_epochs=20, alignment_weight=1.0)
    return Recipe(start=start, fit=fit, num_views=6, has_class_names=True)


@dataclass(frozen=True, slots=True)
class TrainingSources:
    """Pictures by their use; each name is a data set's."""

    pairs: Mapping[str, Sequence[CaptionedPicture]]  # learnt from, every epoch
    breadth: Mapping[str, Sequence[CaptionedPicture]]  # learnt from in part: other subjects, captions that are class names
    validation: Mapping[str, Sequence[CaptionedPicture]]  # never learnt from


class TrainingListener(FitListener):
    """Told of the preparation as well."""

    def caching(self, name: str, num_done: int, num_pictures: int) -> None:
        """The frozen stages have read `num_done` pictures of a data set."""


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What a finished run left."""

    folder: Path
    fingerprint: str
    figures: tuple[ValidationFigures, ...]  # of the last epoch


def train_dual_encoder(
    sources: TrainingSources,
    recipe: Recipe,
    *,
    out: Path,
    work: Path,
    device: torch.device,
    max_pixels: int,
    owed_to: Sequence[str],
    listener: TrainingListener,
) -> TrainingOutcome:
    """Trains and writes a checkpoint into `out`; after a kill the same call goes on where it was.

    `work` keeps the cached maps and the state of the run, and may be removed afterwards. Raises `InvalidTraining` for sources that
    nothing can be learnt from, when `work` belongs to another recipe or `out` holds what an earlier run finished, and
    `EncoderUnavailable` for backbones that cannot be had.
    """
    if (out / CARD_NAME).exists() and not (work / "state").exists():
        raise InvalidTraining(f"{out} holds a checkpoint that is finished; name another place with --out, or remove it to train it again")
    check_trainable([picture for pictures in sources.pairs.values() for picture in pictures])
    for name, pictures in sources.validation.items():
        check_measurable(name, pictures)
    _claim(work, recipe)
    start = start_dual_encoder(recipe.start)
    if recipe.has_class_names and start.classifier is None:
        raise InvalidTraining(
            f"{recipe.start.image_backbone} brings no classifier of 1,000 ImageNet classes to carry over; take one of "
            f"{', '.join(PACKAGED_IMAGE_WEIGHTS)}, or leave the class names out"
        )
    start.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def cached(name: str, pictures: Sequence[CaptionedPicture], *, num_views: int) -> CachedViews:
        def report(num_done: int) -> None:
            listener.caching(name, num_done, len(pictures))

        folder = work / "maps" / name
        return cache_views(
            pictures, start.model, folder=folder, num_views=num_views, max_pixels=max_pixels, seed=recipe.fit.seed, on_progress=report
        )

    training_sets = _training_sets(sources, recipe, start, cached)
    validation_sets = [ValidationSet(name, pictures, cached(name, pictures, num_views=1)) for name, pictures in sources.validation.items()]
    class_names = imagenet_class_names() if recipe.has_class_names else None
    trainer = SharedSpaceTrainer(
        start,
        training_sets,
        validation_sets,
        class_names=class_names,
        options=recipe.fit,
        run_folder=work,
        begin_with=None if recipe.start.checkpoint is None else load_alignment(recipe.start.checkpoint),
    )
    figures = trainer.fit(listener)
    captions = [caption for pictures in sources.pairs.values() for picture in pictures for caption in picture.captions]
    pair_views = [training_set.views for training_set in training_sets[: len(sources.pairs)]]
    banks = fitted_banks(
        bank_queries(start, captions, pair_views, class_names), [embedded_validation(start, each) for each in validation_sets]
    )
    notes = card_notes(sources, recipe, figures, owed_to=owed_to)
    fingerprint = save_checkpoint(out, model=_on_cpu(start.model), text_input=start.text_input, notes=notes)
    save_query_banks(out, banks)
    if trainer.alignment is not None:
        trainer.alignment.save(out)
    logger.info("%s", strengths_told(banks))
    shutil.rmtree(work / "state", ignore_errors=True)
    return TrainingOutcome(out, fingerprint, tuple(figures))


def bank_queries(start: Start, captions: Sequence[str], views: Sequence[CachedViews], class_names: ClassNames | None) -> BankQueries:
    """What stands for the queries that will be asked: the captions, pictures and class names of training."""
    rows = [np.flatnonzero(each.is_readable) * each.num_views for each in views]
    pictures = np.concatenate([embed_views(start.model, each, rows=chosen) for each, chosen in zip(views, rows, strict=True)])
    names = None
    if class_names is not None:
        names = embed_captions(start.model, start.text_input, [name for names in class_names.synonyms_by_class for name in names])
    return BankQueries(embed_captions(start.model, start.text_input, captions), pictures, names)


def embedded_validation(start: Start, validation_set: ValidationSet) -> EmbeddedValidation:
    """A validation source as the trained encoder sees it."""
    pictures = validation_set.readable_pictures()
    rows = np.flatnonzero(validation_set.views.is_readable) * validation_set.views.num_views
    embeddings = embed_views(start.model, validation_set.views, rows=rows)
    classes = [picture.class_name for picture in pictures]
    is_class_labelled = all(name is not None for name in classes)
    if is_class_labelled:
        text_by_class = {str(each.class_name): (each.captions or (str(each.class_name),))[0] for each in pictures}
        texts, owners = list(text_by_class.values()), np.array(list(text_by_class))
        is_relevant = owners[:, np.newaxis] == np.array(classes)[np.newaxis]
    else:
        texts = [caption for picture in pictures for caption in picture.captions]
        owner_by_text = np.repeat(np.arange(len(pictures)), [len(picture.captions) for picture in pictures])
        is_relevant = owner_by_text[:, np.newaxis] == np.arange(len(pictures))
    return EmbeddedValidation(embed_captions(start.model, start.text_input, texts), embeddings, is_relevant, is_class_labelled)


def card_notes(sources: TrainingSources, recipe: Recipe, figures: Sequence[ValidationFigures], *, owed_to: Sequence[str]) -> JsonObject:
    """The part of the card that people read: what it was made from, how, and how well it does."""
    counts = {name: len(pictures) for group in (sources.pairs, sources.breadth) for name, pictures in group.items()}
    return {
        "credits": list(owed_to),
        "trained_on": counts,
        "recipe": _as_json(recipe),
        "figures": [_as_json(figure) for figure in figures],
    }


def _training_sets(sources: TrainingSources, recipe: Recipe, start: Start, cached: Callable[..., CachedViews]) -> list[TrainingSet]:
    caption_numbers: dict[str, int] = {}
    sets: list[TrainingSet] = []
    num_breadth = sum(len(pictures) for pictures in sources.breadth.values())
    for name, pictures in sources.pairs.items():
        tokens, numbers = tokenised_captions(pictures, start.text_input, caption_numbers=caption_numbers)
        sets.append(TrainingSet(cached(name, pictures, num_views=recipe.num_views), tokens, numbers, None))
    for name, pictures in sources.breadth.items():
        tokens, numbers = tokenised_captions(pictures, start.text_input, caption_numbers=caption_numbers)
        share = max(1, round(recipe.breadth_pictures_per_epoch * len(pictures) / num_breadth))
        sets.append(TrainingSet(cached(name, pictures, num_views=1), tokens, numbers, share))
    return sets


def _claim(work: Path, recipe: Recipe) -> None:
    """Writes the recipe into the work folder, or compares it with the one that is there: states of different recipes don't mix."""
    if (work / "state").exists() and (work / _RECIPE).exists() and not is_run_of(work, recipe):
        raise InvalidTraining(f"{work} holds an unfinished run with other options; give those, another work folder, or remove it")
    work.mkdir(parents=True, exist_ok=True)
    (work / _RECIPE).write_text(_told(recipe))


def is_run_of(work: Path, recipe: Recipe) -> bool:
    """Whether that recipe's run was begun in the work folder."""
    path = work / _RECIPE
    return path.exists() and path.read_text() == _told(recipe)


def _told(recipe: Recipe) -> str:
    return json.dumps(_as_json(recipe), indent=2, sort_keys=True)


def _on_cpu(model: DualEncoder) -> DualEncoder:
    return model.to("cpu")


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(value), default=str))
