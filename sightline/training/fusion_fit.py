"""Fitting a fusion encoder to cached tokens: alignment first, against whole batches, then the layers on top of it.

An ITM head that starts from nothing and sees one negative a pair learns next to nothing from a few thousand pictures. Word-to-patch
alignment, whose every other picture of the batch is a negative, does (measured: docs/training.md). So alignment is fitted first and
alone; the layers begin as zero beside it, and each batch's texts meet all of its pictures: image-text contrastive loss (ITC) over the
whole grid of match logits, and image-text matching (ITM, ALBEF, Li et al. 2021) over the pairs and hard negatives drawn by the dual
encoder's similarities, in which no pair of the same picture or caption is ever a negative.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.fusion_encoder import Attention, FeedForward, FusionEncoder, Words
from sightline.errors import InvalidTraining
from sightline.training.autocast import training_autocast
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.losses import itc_loss, itm_loss, queued_itc_loss, same_caption_mask
from sightline.training.momentum_queue import MomentumQueue, QueuedPairs, queued_alignments
from sightline.training.projection_fit import check_finite
from sightline.training.schedule import cosine_cycle
from sightline.training.state import RunState, load_state, save_state
from sightline.training.token_cache import CachedTokens

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FusionStep:
    """One step, for who shows progress."""

    phase: str
    epoch: int  # from 1
    num_epochs: int
    step: int  # from 1
    num_steps: int
    loss: float


class FusionListener:
    """Told how a run goes; this one writes to the log."""

    def fusion_step_done(self, report: FusionStep) -> None:
        """A step has been taken."""
        logger.debug("%s epoch %d step %d/%d loss %.3f", report.phase, report.epoch, report.step, report.num_steps, report.loss)

    def fusion_epoch_done(self, phase: str, epoch: int, loss: float, duration_s: float) -> None:
        """An epoch has been trained."""
        logger.info("%s epoch %d in %.0f s, loss %.3f", phase, epoch, duration_s, loss)


@dataclass(frozen=True, slots=True)
class FusionBatch:
    """One step's pictures, a text of each, and what the dual encoder thinks of them."""

    image_tokens: Tensor  # (pictures, patches, num_components)
    words: Words  # (texts, words, text_token_dim)
    similarities: Tensor  # (texts, pictures), the dual encoder's
    is_same: Tensor  # bool (texts, pictures), true on the diagonal too: the text is one of that picture's
    caption_ids: Tensor  # (texts,), equal for equal captions

    @property
    def pairs(self) -> QueuedPairs:
        """What a later step may take negatives from."""
        return QueuedPairs(self.image_tokens, self.words, self.caption_ids)


@dataclass(frozen=True, slots=True)
class _Phase:
    name: str
    epochs: int
    batch_size: int
    learning_rate: float


class FusionTrainer:
    """Fits a fusion encoder that reads reduced tokens, in place; the same call goes on after a kill."""

    def __init__(
        self,
        fusion: FusionEncoder,
        training_sets: Sequence[CachedTokens],
        *,
        options: FusionFitOptions,
        run_folder: Path,
        device: torch.device,
    ) -> None:
        self._fusion = fusion.to(device)
        self._sets = training_sets
        self._options = options
        self._run_folder = run_folder
        self._device = device
        self._places = captioned_places(training_sets)
        if len(self._places) < 2:
            raise InvalidTraining(
                "the training sources hold fewer than two captioned pictures that can be decoded; matching needs others to differ from"
            )

    def fit(self, listener: FusionListener) -> None:
        """Both phases; the encoder then holds the averaged weights, in evaluation mode.

        Raises `InvalidTraining` for a loss that is no number.
        """
        options = self._options
        alignment = _Phase("alignment", options.alignment_epochs, options.alignment_batch_size, options.alignment_learning_rate)
        layers = _Phase("fusion", options.fusion_epochs, options.fusion_batch_size, options.fusion_learning_rate)
        for phase in (alignment, layers):
            if phase.epochs and (phase is alignment or self._fusion.layers):
                self._fit_phase(phase, listener)
        self._fusion.eval()

    def _fit_phase(self, phase: _Phase, listener: FusionListener) -> None:
        parameters = list(self._parameters(phase))
        optimizer = torch.optim.AdamW(parameters, phase.learning_rate, weight_decay=self._options.weight_decay, betas=(0.9, 0.98))
        folder = self._run_folder / f"state-{phase.name}"
        state = load_state(folder, model=self._fusion, optimizer=optimizer)
        if state is None:
            average = {name: tensor.detach().clone() for name, tensor in self._fusion.state_dict().items()}
            state = RunState(average, None, epoch=0, step=0)
        average = {name: tensor.to(self._device) for name, tensor in state.average.items()}
        for epoch in range(state.epoch, phase.epochs):
            started = time.monotonic()
            first_step = state.step if epoch == state.epoch else 0
            loss = self._train_epoch(phase, epoch, parameters, optimizer, average, listener, first_step=first_step, folder=folder)
            save_state(folder, model=self._fusion, optimizer=optimizer, state=RunState(average, None, epoch=epoch + 1, step=0))
            listener.fusion_epoch_done(phase.name, epoch + 1, loss, time.monotonic() - started)
        self._fusion.load_state_dict(average)

    def _train_epoch(
        self,
        phase: _Phase,
        epoch: int,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        average: dict[str, Tensor],
        listener: FusionListener,
        *,
        first_step: int,
        folder: Path,
    ) -> float:
        num_steps = max(1, len(self._places) // phase.batch_size)
        losses: list[float] = []
        saved_at = time.monotonic()
        queue = MomentumQueue(self._options.queue_size if phase.name == "alignment" else 0)
        for step, batch in enumerate(self._batches(phase, epoch)):
            if step < first_step:  # taken before a kill, and drawn again: the draws that follow depend on it, and the queue
                queue.push(batch.pairs)
                continue
            position = epoch * num_steps + step
            torch.manual_seed(
                self._options.seed * 1_000_003 + position
            )  # dropout draws from here: a resumed run repeats an undisturbed one
            for group in optimizer.param_groups:
                group["lr"] = phase.learning_rate * cosine_cycle(position, phase.epochs * num_steps)
            self._switch_dropout_on()
            if phase.name == "alignment":
                loss = self._alignment_loss(batch, queue.pairs(), average)
                queue.push(batch.pairs)
            else:
                loss = self._fusion_loss(batch, position=position)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(parameters, self._options.max_gradient_norm)
            check_finite(loss.detach(), norm, step=position + 1)
            optimizer.step()
            with torch.no_grad():
                for name, tensor in self._fusion.state_dict().items():
                    average[name].lerp_(tensor, 1 - self._options.average_decay)
            losses.append(float(loss.detach()))
            listener.fusion_step_done(FusionStep(phase.name, epoch + 1, phase.epochs, step + 1, num_steps, losses[-1]))
            if time.monotonic() - saved_at > self._options.checkpoint_seconds:
                save_state(folder, model=self._fusion, optimizer=optimizer, state=RunState(average, None, epoch=epoch, step=step + 1))
                saved_at = time.monotonic()
        return float(np.mean(losses)) if losses else float("nan")

    def _parameters(self, phase: _Phase) -> Iterable[nn.Parameter]:
        if phase.name == "fusion":
            return self._fusion.parameters()
        fusion = self._fusion
        return (*fusion.patch_projection.parameters(), *fusion.alignment.parameters(), fusion.alignment_scale)

    def _batches(self, phase: _Phase, epoch: int) -> Iterator[FusionBatch]:
        """Every captioned picture once, in a random order and view, with one of its captions; a last batch that is short is left out."""
        generator = np.random.default_rng([self._options.seed, phase.name == "fusion", epoch])
        order = generator.permutation(len(self._places))
        size = min(phase.batch_size, len(order))
        for start in range(0, len(order) - size + 1, size):
            yield self._batch(self._places[order[start : start + size]], generator)

    def _batch(self, places: NDArray[np.int64], generator: np.random.Generator) -> FusionBatch:
        tokens, images, texts, chosen = [], [], [], []
        for number, picture in places.tolist():
            cached = self._sets[number]
            row = picture * cached.num_views + int(generator.integers(cached.num_views))
            own = cached.texts_of(picture)
            chosen.append((number, int(own[generator.integers(len(own))])))
            tokens.append(cached.image_tokens[row])
            images.append(cached.image_embeddings[row])
            texts.append(cached.text_embeddings[chosen[-1][1]])
        similarities = torch.from_numpy(np.stack(texts) @ np.stack(images).T)
        caption_ids = torch.tensor([int(self._sets[number].caption_ids[text]) for number, text in chosen])
        is_same = same_caption_mask(caption_ids, torch.arange(len(places)), num_pictures=len(places))
        stacked = torch.from_numpy(np.stack(tokens).astype(np.float32))
        device = self._device
        return FusionBatch(stacked.to(device), self._words(chosen), similarities.to(device), is_same.to(device), caption_ids.to(device))

    def _words(self, chosen: Sequence[tuple[int, int]]) -> Words:
        rows = [self._sets[number].words([text], max_words=self._options.max_words) for number, text in chosen]
        longest = max(row.mask.shape[1] for row in rows)
        missing = [longest - row.mask.shape[1] for row in rows]
        hidden = [functional.pad(row.hidden_states, (0, 0, 0, short)) for row, short in zip(rows, missing, strict=True)]
        masks = [functional.pad(row.mask, (0, short)) for row, short in zip(rows, missing, strict=True)]
        return Words(torch.cat(hidden).to(self._device), torch.cat(masks).to(self._device))

    def _switch_dropout_on(self) -> None:
        self._fusion.train()
        for module in self._fusion.modules():
            if isinstance(module, Attention | FeedForward):
                module.dropout.p = self._options.layer_dropout

    def _disturbed(self, batch: FusionBatch) -> tuple[Tensor, Words]:
        """Image tokens and words with some of them dropped; the first word, which the ITM head reads, stays."""
        options = self._options
        tokens = functional.dropout(batch.image_tokens, options.token_dropout)
        hidden = functional.dropout(batch.words.hidden_states, options.token_dropout)
        is_kept = torch.rand(batch.words.mask.shape, device=self._device) >= options.word_dropout
        is_kept[:, 0] = True
        return tokens, Words(hidden, batch.words.mask & is_kept)

    def _alignment_loss(self, batch: FusionBatch, queued: QueuedPairs | None, average: dict[str, Tensor]) -> Tensor:
        tokens, words = self._disturbed(batch)
        fusion = self._fusion
        patches = fusion.project(tokens)
        aligned = fusion.alignment(fusion.text_norm(words.hidden_states), words.mask, patches)  # (texts, pictures)
        if queued is None:
            return self._contrast(aligned, batch, logit_scale=fusion.alignment_scale.exp())
        return queued_itc_loss(
            aligned,
            queued_alignments(fusion, average, words, patches, queued),
            is_same=batch.is_same,
            is_same_queued=batch.caption_ids[:, None] == queued.caption_ids[None, :],
            logit_scale=fusion.alignment_scale.exp(),
            label_smoothing=self._options.label_smoothing,
        )

    def _fusion_loss(self, batch: FusionBatch, *, position: int) -> Tensor:
        tokens, words = self._disturbed(batch)
        with training_autocast(self._device):
            logits = self._fusion(words, self._fusion.project(tokens))  # (texts, pictures)
        contrast = self._contrast(logits, batch, logit_scale=torch.ones((), device=self._device))
        generator = torch.Generator(self._device).manual_seed(position)
        matching = itm_loss(logits, batch.similarities * self._options.hard_negative_scale, batch.is_same, generator=generator)
        return contrast + self._options.itm_weight * matching

    def _contrast(self, values: Tensor, batch: FusionBatch, *, logit_scale: Tensor) -> Tensor:
        own = torch.arange(len(values), device=self._device)
        return itc_loss(values, own, is_same_caption=batch.is_same, logit_scale=logit_scale, label_smoothing=self._options.label_smoothing)


def captioned_places(training_sets: Sequence[CachedTokens]) -> NDArray[np.int64]:
    """(set, picture) of every readable picture with a caption."""
    places = [
        (number, picture)
        for number, cached in enumerate(training_sets)
        for picture in np.intersect1d(np.flatnonzero(cached.is_readable), cached.picture_by_text).tolist()
    ]
    return np.array(places, dtype=np.int64).reshape(-1, 2)
