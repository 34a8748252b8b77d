"""A whole run that fits a fusion encoder on top of any encoder that shows its tokens: from captioned pictures to a checkpoint."""

import dataclasses
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from sightline.encoders.fusion_checkpoint import FusionCheckpoint, has_fusion_checkpoint, save_fusion_checkpoint
from sightline.encoders.fusion_encoder import FusionEncoder, FusionEncoderConfig
from sightline.encoders.matcher import Combination
from sightline.encoders.tokens import GRID_SIDE, TokenEncoder
from sightline.errors import InvalidTraining
from sightline.training.alignment_head import AlignmentHead
from sightline.training.backbones import credits_of_second_backbone, start_second_backbone
from sightline.training.fusion_calibration import JudgedCandidates, JudgedPairs, fit_calibration, fit_weight
from sightline.training.fusion_fit import FusionListener, FusionTrainer
from sightline.training.fusion_judging import Judged, judge
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.likelihood_fit import fit_likelihood
from sightline.training.match_priors import bank_images, bank_texts, fit_priors, with_banks
from sightline.training.pairs import CaptionedPicture, check_measurable, check_trainable
from sightline.training.reading_weights import fit_length_exponent, fit_reading_weights
from sightline.training.second_space_fit import fit_second_space
from sightline.training.token_cache import CachedTokens, TokenBasis, TokenCache
from sightline.types import JsonObject

_DIRECTIONS = ("text-to-image", "image-to-text")

_LEAST_PARTED = 20.0
"""By so many points more matches than others have to reach a probability of 0.5; no difference is what a coin gives."""

_LAYER_SHAPES = {"width": 256, "num_heads": 4, "hidden_dim": 1024}


@dataclass(frozen=True, slots=True)
class FusionRecipe:
    """Everything that, with the pictures and the encoder, decides what comes out."""

    fit: FusionFitOptions = field(default_factory=FusionFitOptions)
    num_layers: int = 2
    num_views: int = 6  # cached views of a captioned picture
    second_backbone: str | None = None  # an encoder of ours by its folder, or a backbone of timm by name; see `SecondBackbone`


class FusionTrainingListener(FusionListener):
    """Told of the preparation as well."""

    def caching(self, name: str, num_done: int, num_pictures: int) -> None:
        """The encoder has read `num_done` pictures of a data set."""

    def measuring(self, name: str) -> None:
        """A validation source is being asked."""


@dataclass(frozen=True, slots=True)
class DirectionFigures:
    """First stage and second beside each other on one validation source, in one direction; percent."""

    name: str
    direction: str
    num_queries: int
    depth: int
    first_stage: tuple[float, float, float]  # hit rate@1/5/10, or precision@10 alone in the first place for class names
    reranked: tuple[float, float, float]
    logit_alone: tuple[float, float, float]
    at_depth: float  # queries whose answer is among the candidates: what no reranking can go beyond

    @property
    def headroom_captured(self) -> float | None:
        """(hit@1 reranked - hit@1 first) / (hit@depth first - hit@1 first), in percent; None where there is no room."""
        room = self.at_depth - self.first_stage[0]
        return 100 * (self.reranked[0] - self.first_stage[0]) / room if room > 0 else None

    def __str__(self) -> str:
        before, after = (" / ".join(f"{rate:.1f}" for rate in rates) for rates in (self.first_stage, self.reranked))
        return f"{self.name}, {self.direction}: {before} -> {after}"


@dataclass(frozen=True, slots=True)
class FusionOutcome:
    """What a finished run left."""

    folder: Path
    fingerprint: str
    figures: tuple[DirectionFigures, ...]
    calibration_error: float  # expected calibration error, in percent
    kept_at_half: tuple[float, float]  # of matches and of the other candidates, by a least match probability of 0.5; percent
    warnings: tuple[str, ...]  # what whoever uses it should know: sentences


def train_fusion(
    pairs: Mapping[str, Sequence[CaptionedPicture]],
    validation: Mapping[str, Sequence[CaptionedPicture]],
    encoder: TokenEncoder,
    recipe: FusionRecipe,
    *,
    out: Path,
    work: Path,
    device: torch.device,
    max_pixels: int,
    listener: FusionTrainingListener,
    begin_with: AlignmentHead | None = None,
) -> FusionOutcome:
    """Trains on tokens of the frozen encoder and writes a checkpoint into `out`; after a kill the same call goes on where it was.

    `begin_with` is the alignment head that the encoder was trained with; without one alignment begins anew.

    Raises `InvalidTraining` for sources that nothing can be learnt or measured from, or when `work` belongs to another recipe.
    """
    if has_fusion_checkpoint(out) and not _has_begun(work):
        raise InvalidTraining(
            f"{out} holds a fusion encoder that is finished; name another place with --out, or remove it to train it again"
        )
    check_trainable([picture for pictures in pairs.values() for picture in pictures])
    if not validation:
        raise InvalidTraining(
            "there is nothing to measure with: how much the second look counts is fitted on pictures that were not trained on; "
            "name some by --validate, or give more pictures, of which a fifth is held out"
        )
    for name, pictures in validation.items():
        check_measurable(name, pictures)
    _claim(work, recipe, encoder)
    second = None
    if recipe.second_backbone is not None:
        second = start_second_backbone(recipe.second_backbone).placed(device)
    cache = TokenCache(encoder, work / "tokens", max_pixels=max_pixels, seed=recipe.fit.seed, second=second)
    basis = cache.basis([picture for pictures in pairs.values() for picture in pictures])

    def cached(name: str, pictures: Sequence[CaptionedPicture], num_views: int) -> CachedTokens:
        return cache.read(name, pictures, basis, num_views=num_views, on_progress=lambda done: listener.caching(name, done, len(pictures)))

    training_sets = [cached(name, pictures, recipe.num_views) for name, pictures in pairs.items()]
    validation_sets = {name: cached(f"{name}-validation", pictures, 1) for name, pictures in validation.items()}
    for name, found in validation_sets.items():  # again, of those that could be read, before hours of training
        check_measurable(name, [validation[name][int(picture)] for picture in np.flatnonzero(found.is_readable)])
    torch.manual_seed(recipe.fit.seed)
    model = FusionEncoder(
        FusionEncoderConfig(
            token_dim=basis.num_components,
            text_width=encoder.text_token_dim,
            grid_height=GRID_SIDE,
            grid_width=GRID_SIDE,
            num_layers=recipe.num_layers,
            **_LAYER_SHAPES,
        )
    )
    if begin_with is not None:
        begin_with.begin(model, basis)
    FusionTrainer(model, training_sets, options=recipe.fit, run_folder=work, device=device).fit(listener)
    model = fit_second_space(model, training_sets, options=recipe.fit)
    model = fit_likelihood(model, training_sets, options=recipe.fit)
    model = with_banks(model, bank_texts(training_sets, encoder, seed=recipe.fit.seed), bank_images(training_sets, seed=recipe.fit.seed))
    judged = []
    for name, found in validation_sets.items():
        listener.measuring(name)
        judged += judge(model, name, validation[name], found, encoder=encoder, options=recipe.fit)
    judged = fit_reading_weights(model, fit_priors(model, judged))
    checkpoint, figures, error = fitted(model, judged, encoder_fingerprint=encoder.fingerprint)
    kept = JudgedPairs.of([each.candidates for each in judged], first=1).kept_at_half(checkpoint.calibration)
    checkpoint = dataclasses.replace(checkpoint, model=over_whole_tokens(checkpoint.model, basis))
    if second is not None:
        kept_second = second.placed(torch.device("cpu"))
        checkpoint = dataclasses.replace(checkpoint, second_backbone=second.config, load_second_backbone=lambda: kept_second)
    notes = card_notes(pairs, recipe, encoder, figures, error) | {"kept_at_half": list(kept)}
    fingerprint = save_fusion_checkpoint(out, checkpoint, notes=notes)
    for phase in ("alignment", "fusion"):
        shutil.rmtree(work / f"state-{phase}", ignore_errors=True)
    return FusionOutcome(
        out,
        fingerprint,
        tuple(figures),
        error,
        kept,
        warnings_of(checkpoint.combination, kept, directions={each.direction for each in judged}),
    )


def warnings_of(combination: Combination, kept_at_half: tuple[float, float], *, directions: Collection[str]) -> tuple[str, ...]:
    """What is wrong with a second look of these weights and this calibration, where anything is; of the directions that were judged."""
    found = [
        f"{direction}: no weight of the match logit helps without lowering a validation source, so the second look "
        "keeps the first stage's order; train on more pairs, or on pictures of the kind that is searched"
        for direction in _DIRECTIONS
        if direction in directions and getattr(combination, direction.replace("-", "_")) == 0
    ]
    matches, others = kept_at_half
    if matches - others < _LEAST_PARTED:
        found.append(
            f"match probabilities tell little: 0.5 is reached by {matches:.0f} % of the matches and by {others:.0f} % of the other "
            "candidates; don't cut off by --min-match"
        )
    return tuple(found)


def fitted(
    model: FusionEncoder, judged: Sequence[Judged], *, encoder_fingerprint: str
) -> tuple[FusionCheckpoint, list[DirectionFigures], float]:
    """Weights, calibration and figures of what validation sources say; the expected calibration error is read on every second query."""
    exponent = fit_length_exponent(judged)
    judged = [each.with_length_exponent(exponent) for each in judged]
    weight_by_direction = {
        direction: fit_weight([each.candidates for each in judged if each.direction == direction])
        for direction in _DIRECTIONS
        if any(each.direction == direction for each in judged)
    }
    sources = [each.candidates for each in judged]
    calibration = fit_calibration(JudgedPairs.of(sources, first=0))
    error = JudgedPairs.of(sources, first=1).error(calibration)
    weights = {direction.replace("-", "_"): weight for direction, weight in weight_by_direction.items()}
    combination = Combination(**weights, length_exponent=exponent)
    figures = [_figures(each, weight=weight_by_direction[each.direction]) for each in judged]
    checkpoint = FusionCheckpoint(model.to("cpu"), encoder_fingerprint, combination, calibration)
    return checkpoint, figures, error


def _figures(each: Judged, *, weight: float) -> DirectionFigures:
    candidates = each.candidates
    alone = dataclasses.replace(candidates, similarities=np.zeros_like(candidates.similarities))

    def rates(source: JudgedCandidates, at_weight: float) -> tuple[float, float, float]:
        found = source.hit_rates(at_weight)
        return (source.precision_at_k(at_weight), found.at_5, found.at_10)

    return DirectionFigures(
        name=candidates.name,
        direction=each.direction if candidates.k == 1 else f"{each.direction} by class name (precision@{candidates.k})",
        num_queries=len(candidates.logits),
        depth=candidates.logits.shape[1],
        first_stage=rates(candidates, 0.0),
        reranked=rates(candidates, weight),
        logit_alone=rates(alone, 1.0),
        at_depth=100 * float(candidates.is_relevant.any(axis=1).mean()),
    )


def over_whole_tokens(model: FusionEncoder, basis: TokenBasis) -> FusionEncoder:
    """The same encoder, reading tokens as the dual encoder gives them: the two projections multiplied out."""
    whole = FusionEncoder(dataclasses.replace(model.config, token_dim=len(basis.mean)))
    projection = model.patch_projection
    weight = projection.linear.weight / projection.token_std
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("patch_projection.")}
    state |= {
        "patch_projection.token_mean": torch.from_numpy(basis.mean),
        "patch_projection.token_std": torch.from_numpy(basis.std),
        "patch_projection.linear.weight": basis.unfold(weight.detach()),
        "patch_projection.linear.bias": (projection.linear.bias - weight @ projection.token_mean).detach(),
    }
    whole.load_state_dict(state)
    return whole.eval()


def card_notes(
    pairs: Mapping[str, Sequence[CaptionedPicture]],
    recipe: FusionRecipe,
    encoder: TokenEncoder,
    figures: Sequence[DirectionFigures],
    calibration_error: float,
) -> JsonObject:
    """The part of the card that people read."""
    told = [dataclasses.asdict(each) | {"headroom_captured": each.headroom_captured} for each in figures]
    return {
        "encoder": encoder.name,
        "trained_on": {name: len(pictures) for name, pictures in pairs.items()},
        "recipe": json.loads(json.dumps(dataclasses.asdict(recipe))),
        "credits": [] if recipe.second_backbone is None else credits_of_second_backbone(recipe.second_backbone),
        "figures": json.loads(json.dumps(told)),
        "expected_calibration_error": calibration_error,
    }


def _claim(work: Path, recipe: FusionRecipe, encoder: TokenEncoder) -> None:
    """Writes the recipe into the work folder, or compares it with the one that is there: states of different recipes don't mix."""
    path = work / "fusion-recipe.json"
    text = json.dumps({"encoder": encoder.fingerprint, **dataclasses.asdict(recipe)}, indent=2, sort_keys=True)
    if _has_begun(work) and path.exists() and path.read_text() != text:
        raise InvalidTraining(f"{work} holds an unfinished run with other options; give those, another work folder, or remove it")
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _has_begun(work: Path) -> bool:
    return any((work / f"state-{phase}").exists() for phase in ("alignment", "fusion"))
