"""An encoder tuned for the fusion encoder that will be fitted on top of it: the first half of `sightline train fusion --unfreeze`.

The unfrozen stages, the text backbone and the projections go on from where they are, by ITC in the shared space, by word-to-patch alignment
against the whole batch, and by a matching loss over hard negatives that the similarities find. What comes out is another encoder, with a
fingerprint of its own: what was embedded by the one that it was made of has to be embedded anew.
"""

import dataclasses
from pathlib import Path

import torch

from sightline.encoders.checkpoint import CARD_NAME, read_card
from sightline.errors import InvalidTraining
from sightline.training.backbones import StartOptions
from sightline.training.options import FitOptions
from sightline.training.recipe import Recipe, TrainingListener, TrainingSources, is_run_of, train_dual_encoder

LEARNING_RATE_SHARE = 0.3
"""Of the rates that pretrained backbones are tuned with: what goes on from a checkpoint is near its place."""

ITM_WEIGHT = 0.5
"""As a fusion encoder's layers have it."""


def unfrozen_recipe(checkpoint: Path, *, epochs: int, num_views: int, seed: int) -> Recipe:
    """Epochs of everything that is not frozen, from the checkpoint on."""
    fit = FitOptions()
    fit = dataclasses.replace(
        fit,
        epochs=epochs,
        projection_epochs=0,
        image_learning_rate=LEARNING_RATE_SHARE * fit.image_learning_rate,
        projection_learning_rate=LEARNING_RATE_SHARE * fit.projection_learning_rate,
        text_learning_rate=LEARNING_RATE_SHARE * fit.text_learning_rate,
        alignment_weight=1.0,
        itm_weight=ITM_WEIGHT,
        seed=seed,
    )
    return Recipe(start=StartOptions(checkpoint=checkpoint, seed=seed), fit=fit, num_views=num_views)


def tunable_folder(folder: Path | None, spec: str) -> Path:
    """The folder itself, where an encoder of ours is in it. Raises `InvalidTraining` for any other, which stays as it is."""
    if folder is None or not (folder / CARD_NAME).is_file():
        raise InvalidTraining(
            f"--unfreeze tunes an encoder that `sightline train` wrote, and {spec} is none; leave the option out to train on top of it"
        )
    return folder


def tune_encoder(
    sources: TrainingSources, recipe: Recipe, *, out: Path, work: Path, device: torch.device, max_pixels: int, listener: TrainingListener
) -> None:
    """Writes the tuned encoder into `out`, where that was not done before by this run; after a kill the same call goes on.

    Raises what `train_dual_encoder` raises, and `InvalidCheckpoint` for an encoder that `sightline train` did not write.
    """
    assert recipe.start.checkpoint is not None
    credits_of_it = [str(credit) for credit in read_card(recipe.start.checkpoint).get("credits", [])]
    if (out / CARD_NAME).exists() and not (work / "state").exists() and is_run_of(work, recipe):
        return
    train_dual_encoder(sources, recipe, out=out, work=work, device=device, max_pixels=max_pixels, owed_to=credits_of_it, listener=listener)
