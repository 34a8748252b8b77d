"""Fitting a dual encoder: projections first, on features computed once, then everything that isn't frozen.

Image-text contrastive learning (Radford et al. 2021) in two phases. Fresh projections over pretrained backbones would at first send
noise into them, so they are fitted alone on pooled features, which takes seconds (as LP-FT does, Kumar et al. 2022). Then the unfrozen
stages, the text backbone and the projections are tuned together on one cosine cycle, with an exponential average of the weights (Polyak)
as the result, and the projections may be fitted once more on what it gives. Where the image backbone brings a classifier, its knowledge
is carried over at the same time: see `class_names`.
"""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sightline.encoders.dual_encoder import DualEncoder, gridded_tokens, pooled
from sightline.encoders.text_input import TextInput
from sightline.errors import InvalidTraining
from sightline.training.alignment_head import AlignmentHead
from sightline.training.autocast import training_autocast
from sightline.training.backbones import Classifier, Start
from sightline.training.batches import StepBatch, TrainingSet, epoch_batches, num_steps
from sightline.training.class_names import ClassNames, class_probabilities, push_towards_classes
from sightline.training.losses import class_name_loss, cosine_similarities, itc_loss, itm_loss, same_caption_mask
from sightline.training.options import FitOptions
from sightline.training.projection_fit import ProjectionFit, check_finite, projection_parameters, train_projections
from sightline.training.schedule import cosine_cycle
from sightline.training.state import RunState, load_state, save_state
from sightline.training.validation import ROWS_PER_BATCH, ValidationFigures, ValidationSet, stem_tensor, validate

logger = logging.getLogger(__name__)

TEXTS_PER_CHUNK = 128
"""Texts that pass the text backbone together in a step; fewer would leave the processor's wide units idle."""

ALIGNMENT_SAMPLE = 256
"""Pictures of each training set whose tokens the alignment head is standardised by."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """Where a run is."""

    epoch: int  # counts from 1
    num_epochs: int
    step: int  # counts from 1
    num_steps: int
    loss: float  # of this step


class FitListener:
    """Told how a run goes; this one writes it to the log. A caller subclasses it to draw progress."""

    def projections_fitted(self, loss: float, duration_s: float) -> None:
        """The projections have been fitted alone."""
        logger.info("projections fitted: loss %.3f in %.0f s", loss, duration_s)

    def step_done(self, report: StepReport) -> None:
        """A step has been taken."""
        logger.debug("epoch %d step %d/%d loss %.3f", report.epoch, report.step, report.num_steps, report.loss)

    def epoch_done(self, epoch: int, figures: Sequence[ValidationFigures], duration_s: float) -> None:
        """An epoch has been trained and validated; epoch 0 is the state before the first."""
        logger.info("epoch %d in %.0f s; %s", epoch, duration_s, "; ".join(map(str, figures)))


class _Trained(nn.Module):
    """All that a run moves, for its state and its average."""

    def __init__(self, encoder: DualEncoder, alignment: AlignmentHead | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.alignment = alignment


class SharedSpaceTrainer:
    """Fits `start.model` in place and keeps its run under `run_folder`, from which the same call goes on after a kill."""

    def __init__(
        self,
        start: Start,
        training_sets: Sequence[TrainingSet],
        validation_sets: Sequence[ValidationSet],
        *,
        class_names: ClassNames | None,
        options: FitOptions,
        run_folder: Path,
        begin_with: AlignmentHead | None = None,
    ) -> None:
        """`begin_with` is the alignment head that the encoder has, where it is one that is trained again; its weights are moved."""
        if options.batch_size < 2:
            raise InvalidTraining(f"a batch of {options.batch_size} has no negative to learn from; it takes at least 2 pictures")
        self._model: DualEncoder = start.model
        self._text_input: TextInput = start.text_input
        self._classifier: Classifier | None = _on_device(start.classifier, start.model.pixel_mean.device)
        self._class_names = class_names if start.classifier is not None else None
        self._training_sets = training_sets
        self._validation_sets = validation_sets
        self._options = options
        self._state_folder = run_folder / "state"
        self._device = start.model.pixel_mean.device
        self._begins_with_alignment = begin_with is not None
        self._alignment = None
        if options.alignment_weight:
            fresh = AlignmentHead.of(start.model, seed=options.seed) if begin_with is None else begin_with
            self._alignment = fresh.to(self._device)
        self._trained = _Trained(start.model, self._alignment)
        self._name_table: Tensor | None = None

    @property
    def alignment(self) -> AlignmentHead | None:
        """The head that was trained beside the encoder, where the options ask for one."""
        return self._alignment

    def fit(self, listener: FitListener) -> list[ValidationFigures]:
        """Runs to the end, or goes on where a killed run was; the model then holds the averaged weights, in evaluation mode.

        Returns the figures of the last epoch. Raises `InvalidTraining` when the loss stops being a number.
        """
        _freeze(self._model)
        optimizer = self._optimizer()
        state = load_state(self._state_folder, model=self._trained, optimizer=optimizer)
        if state is None:
            state = self._begin(optimizer, listener)
        average = {name: tensor.to(self._device) for name, tensor in state.average.items()}
        self._name_table = None if state.name_table is None else state.name_table.to(self._device)
        figures: list[ValidationFigures] = []
        for epoch in range(state.epoch, self._options.epochs):
            started = time.monotonic()
            self._train_epoch(epoch, average, optimizer, listener, first_step=state.step if epoch == state.epoch else 0)
            self._save(average, optimizer, epoch=epoch + 1, step=0)
            figures = self._validated(average)
            listener.epoch_done(epoch + 1, figures, time.monotonic() - started)
        self._trained.load_state_dict(average)
        self._trained.eval()
        if self._options.last_projection_epochs:
            return self._finish(listener)
        return figures or self._validated(average)

    def _finish(self, listener: FitListener) -> list[ValidationFigures]:
        """The projections once more, on what the tuned backbones give; minutes, so a kill here begins it again."""
        started = time.monotonic()
        loss = self._projection_fit().run_again()
        listener.projections_fitted(loss, time.monotonic() - started)
        figures = self._validated({name: tensor.detach().clone() for name, tensor in self._trained.state_dict().items()})
        listener.epoch_done(self._options.epochs, figures, time.monotonic() - started)
        return figures

    def _begin(self, optimizer: torch.optim.Optimizer, listener: FitListener) -> RunState:
        """The state before the first step: fitted projections, whose weights begin the average."""
        started = time.monotonic()
        loss = self._projection_fit().run() if self._options.projection_epochs else float("nan")
        listener.projections_fitted(loss, time.monotonic() - started)
        self._standardise_alignment()
        average = {name: tensor.detach().clone() for name, tensor in self._trained.state_dict().items()}
        listener.epoch_done(0, self._validated(average), time.monotonic() - started)
        return self._save(average, optimizer, epoch=0, step=0)

    def _train_epoch(
        self, epoch: int, average: dict[str, Tensor], optimizer: torch.optim.Optimizer, listener: FitListener, *, first_step: int
    ) -> None:
        options = self._options
        steps = num_steps(self._training_sets, batch_size=options.batch_size)
        batches = epoch_batches(
            self._training_sets,
            self._text_input,
            batch_size=options.batch_size,
            captions_per_picture=options.captions_per_picture,
            seed=options.seed,
            epoch=epoch,
        )
        saved_at = time.monotonic()
        # Steps that were taken before a kill are drawn again and passed over: the draws that follow depend on theirs.
        for step, batch in enumerate(itertools.islice(batches, first_step, None), start=first_step):
            loss = self._step(batch, optimizer, position=epoch * steps + step, total=options.epochs * steps)
            _update_average(average, self._trained, decay=options.average_decay)
            listener.step_done(StepReport(epoch + 1, options.epochs, step + 1, steps, loss))
            if time.monotonic() - saved_at > options.checkpoint_seconds:
                self._save(average, optimizer, epoch=epoch, step=step + 1)
                saved_at = time.monotonic()

    def _projection_fit(self) -> ProjectionFit:
        return ProjectionFit(
            self._model,
            self._text_input,
            self._training_sets,
            classifier=self._classifier,
            class_names=self._class_names,
            options=self._options,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        options, model = self._options, self._model
        groups: tuple[tuple[list[nn.Parameter], float], ...] = (
            ([p for p in model.image.parameters() if p.requires_grad], options.image_learning_rate),
            ([p for p in model.text.parameters() if p.requires_grad], options.text_learning_rate),
            (projection_parameters(model), options.projection_learning_rate),
        )
        if self._alignment is not None:
            groups = (*groups, (list(self._alignment.parameters()), options.alignment_learning_rate))
        parameters = [{"params": group, "lr": rate, "peak_lr": rate} for group, rate in groups if group]
        return torch.optim.AdamW(parameters, weight_decay=options.weight_decay, betas=(0.9, 0.98))

    def _save(self, average: dict[str, Tensor], optimizer: torch.optim.Optimizer, *, epoch: int, step: int) -> RunState:
        state = RunState(average, self._name_table, epoch, step)
        save_state(self._state_folder, model=self._trained, optimizer=optimizer, state=state)
        return state

    def _validated(self, average: dict[str, Tensor]) -> list[ValidationFigures]:
        """Figures of the averaged weights; the model keeps its own."""
        current = {name: tensor.detach().clone() for name, tensor in self._trained.state_dict().items()}
        self._trained.load_state_dict(average)
        self._trained.eval()
        figures = [validate(self._model, self._text_input, validation_set) for validation_set in self._validation_sets]
        self._trained.load_state_dict(current)
        return figures

    def _step(self, batch: StepBatch, optimizer: torch.optim.Optimizer, *, position: int, total: int) -> float:
        options, model = self._options, self._model
        torch.manual_seed(options.seed * 1_000_003 + position)  # dropout draws from here: a resumed run repeats an undisturbed one
        model.eval()  # keeps batch-norm statistics; only dropout is switched on below
        model.text.train()
        train_projections(model, options)
        if self._alignment is not None:
            self._alignment.train()
        factor = cosine_cycle(position, total)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        with training_autocast(self._device):
            loss = self._loss(batch, position=position)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradient_norm = torch.nn.utils.clip_grad_norm_(trained, options.max_gradient_norm)
        check_finite(loss, gradient_norm, step=position + 1)
        optimizer.step()
        with torch.no_grad():
            model.log_logit_scale.clamp_(max=float(np.log(100.0)))  # as CLIP: beyond it training gets unstable
        return float(loss.detach())

    def _loss(self, batch: StepBatch, *, position: int) -> Tensor:
        model, options = self._model, self._options
        kept = None if batch.kept_pooled is None else torch.from_numpy(batch.kept_pooled).to(self._device).float()
        stem_maps = stem_tensor(model, batch.stem_maps)
        tuned = model.tuned_maps(stem_maps)
        image_embeddings = model.project_images(pooled(tuned), kept)  # (pictures, embedding_dim)
        patches = None if self._alignment is None else self._alignment.patches(self._image_tokens(stem_maps, tuned))
        token_ids, mask = torch.from_numpy(batch.tokens.token_ids), torch.from_numpy(batch.tokens.attention_mask)
        text_embeddings, alignment = self._embed(token_ids, mask, patches=patches)
        picture_by_text = torch.from_numpy(batch.picture_by_text).to(self._device)
        is_same = same_caption_mask(
            torch.from_numpy(batch.caption_ids).to(self._device), picture_by_text, num_pictures=len(image_embeddings)
        )

        def contrast(similarities: Tensor, scale: Tensor) -> Tensor:
            smoothing = options.label_smoothing
            return itc_loss(similarities, picture_by_text, is_same_caption=is_same, logit_scale=scale, label_smoothing=smoothing)

        scale = model.log_logit_scale.exp()
        similarities = cosine_similarities(text_embeddings, image_embeddings)
        loss = contrast(similarities, scale)
        if self._alignment is not None and alignment is not None:
            alignment_scale = self._alignment.alignment_scale.exp()
            loss = loss + options.alignment_weight * contrast(alignment, alignment_scale)
            if options.itm_weight:
                # Of each text the column of its own picture: the pairs stand on the diagonal.
                logits, preferences, is_own = (
                    each[:, picture_by_text] for each in (alignment_scale * alignment, options.hard_negative_scale * similarities, is_same)
                )
                generator = torch.Generator(self._device).manual_seed(options.seed * 5_915_587 + position)
                loss = loss + options.itm_weight * itm_loss(logits, preferences, is_own, generator=generator)
        if self._class_names is not None and self._classifier is not None and kept is not None:
            loss = loss + options.class_name_weight * self._class_name_terms(image_embeddings, kept, scale, position=position)
        return loss

    def _image_tokens(self, stem_maps: Tensor, tuned: list[Tensor]) -> Tensor:
        """Tokens (pictures, grid height, grid width, image_token_dim); no gradient reaches the kept branch, which stays as it is."""
        kept: list[Tensor] = []
        if self._model.kept is not None:
            with torch.no_grad():
                kept = [self._model.kept(stem_maps)]
        return gridded_tokens([*tuned, *kept], last=tuned[-1])

    def _standardise_alignment(self) -> None:
        """By a sample of the training pictures, before the first step; a head that was trained before has its own."""
        if self._alignment is None or self._begins_with_alignment:
            return
        generator = np.random.default_rng([self._options.seed, 5])
        tokens = []
        for training_set in self._training_sets:
            views = training_set.views
            rows = np.sort(generator.permutation(training_set.readable)[:ALIGNMENT_SAMPLE]) * views.num_views
            for block in np.array_split(rows, len(rows) // ROWS_PER_BATCH + 1):
                with torch.inference_mode(), training_autocast(self._device):
                    stem_maps = stem_tensor(self._model, views.stem_maps[block])
                    tokens.append(self._image_tokens(stem_maps, self._model.tuned_maps(stem_maps)).flatten(0, 2))
        self._alignment.standardise(torch.cat(tokens))

    def _class_name_terms(self, image_embeddings: Tensor, kept: Tensor, scale: Tensor, *, position: int) -> Tensor:
        assert self._classifier is not None
        names = self._name_embeddings(position)  # (classes, embedding_dim)
        generator = torch.Generator().manual_seed(self._options.seed * 7_368_787 + position)
        classes = torch.randint(len(names), (len(kept),), generator=generator).to(self._device)
        made_up = push_towards_classes(kept, classes, self._classifier, generator=generator)
        real_similarities = cosine_similarities(image_embeddings, names)
        real_loss = class_name_loss(real_similarities, class_probabilities(kept, self._classifier), logit_scale=scale)
        made_up_similarities = cosine_similarities(self._model.project_images(None, made_up), names)
        made_up_loss = class_name_loss(made_up_similarities, class_probabilities(made_up, self._classifier), logit_scale=scale)
        return real_loss + made_up_loss

    def _name_embeddings(self, position: int) -> Tensor:
        """(classes, embedding_dim), some rows with gradient: all thousand through the network would cost more than the captions."""
        assert self._class_names is not None
        generator = np.random.default_rng([self._options.seed, 1, position])
        num_classes = len(self._class_names.synonyms_by_class)
        if self._name_table is None or position % self._options.steps_per_name_table == 0:
            with torch.no_grad():
                self._name_table = self._embed_texts(self._class_names.draw(range(num_classes), generator=generator)).detach()
        chosen = np.sort(generator.permutation(num_classes)[: self._options.names_per_step])
        fresh = self._embed_texts(self._class_names.draw([int(number) for number in chosen], generator=generator))
        return self._name_table.index_copy(0, torch.from_numpy(chosen).to(self._device), fresh)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self._text_input.pad(self._text_input.token_ids(texts))
        return self._embed(torch.from_numpy(tokens.token_ids), torch.from_numpy(tokens.attention_mask))[0]

    def _embed(self, token_ids: Tensor, attention_mask: Tensor, *, patches: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(texts, embedding_dim) of padded tokens, run in chunks of like length: half of a batch of captions is padding otherwise.

        With `patches` of pictures, also the alignment (texts, pictures).
        """
        num_tokens = attention_mask.sum(dim=1)  # (texts,)
        if not len(token_ids):  # every picture of the batch is one without captions
            empty = torch.zeros(0, self._model.config.embedding_dim, device=self._device)
            return empty, None
        order = num_tokens.argsort(stable=True)
        embedded, aligned = [], []
        for chunk in order.split(TEXTS_PER_CHUNK):  # type: ignore[no-untyped-call]
            longest = int(num_tokens[chunk].max())
            ids, mask = token_ids[chunk, :longest].to(self._device), attention_mask[chunk, :longest].to(self._device)
            hidden = self._model.text_hidden_states(ids, mask)
            embedded.append(self._model.embed_hidden_states(hidden, mask))
            if patches is not None and self._alignment is not None:
                aligned.append(self._alignment(hidden, mask, patches))
        back = order.argsort().to(self._device)
        return torch.cat(embedded)[back], torch.cat(aligned)[back] if aligned else None


def _freeze(model: DualEncoder) -> None:
    """Frozen: the first stages, the kept branch, and the word embeddings, which are stored in 8 bits."""
    for stage in list(model.image.stages)[: model.config.num_frozen_stages]:
        stage.requires_grad_(False)
    if model.kept is not None:
        model.kept.requires_grad_(False)
    for name, parameter in model.text.named_parameters():
        if "embeddings" in name:
            parameter.requires_grad_(False)


def _update_average(average: dict[str, Tensor], model: nn.Module, *, decay: float) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, 1 - decay)
            else:
                average[name].copy_(tensor)


def _on_device(classifier: Classifier | None, device: torch.device) -> Classifier | None:
    return None if classifier is None else Classifier(classifier.weight.to(device), classifier.bias.to(device))
