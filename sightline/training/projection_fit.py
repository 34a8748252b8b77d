"""The projections fitted alone, on features that were computed once: minutes of preparation, seconds an epoch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sightline.encoders.dual_encoder import DualEncoder, Projection, pool_tokens
from sightline.encoders.text_input import TextInput
from sightline.errors import InvalidTraining
from sightline.training.autocast import training_autocast
from sightline.training.backbones import Classifier
from sightline.training.batches import TrainingSet, drawn_places, num_steps
from sightline.training.class_names import ClassNames, class_probabilities, push_towards_classes
from sightline.training.losses import class_name_loss, cosine_similarities, itc_loss, same_caption_mask
from sightline.training.options import FitOptions
from sightline.training.schedule import cosine_cycle
from sightline.training.validation import ROWS_PER_BATCH, stem_tensor

NAME_DRAWS = 16
"""Texts that are drawn for each class name before fitting; each step uses one of them."""


class ProjectionFit:
    """Features in memory, and the loop over them.

    The memory that it takes is bounded by the features: 2 bytes x (pooled_width + image_width) a cached view, and 4 x text_width a caption.
    """

    def __init__(
        self,
        model: DualEncoder,
        text_input: TextInput,
        training_sets: Sequence[TrainingSet],
        *,
        classifier: Classifier | None,
        class_names: ClassNames | None,
        options: FitOptions,
    ) -> None:
        self._model, self._sets, self._options, self._classifier = model, training_sets, options, classifier
        self._device = model.pixel_mean.device
        self._tuned = torch.cat([_tuned_views(model, training_set) for training_set in training_sets])  # (rows of all sets, pooled_width)
        self._kept: Tensor | None = None  # (rows of all sets, image_width)
        if model.kept is not None:
            kept = [training_set.views.kept_pooled for training_set in training_sets]
            self._kept = torch.cat([torch.from_numpy(np.asarray(features)) for features in kept])
        num_rows = [len(training_set.views.stem_maps) for training_set in training_sets]
        self._first_row = np.cumsum([0, *num_rows[:-1]])
        ids = [ids for training_set in training_sets for captions in training_set.captions for ids in captions]
        self._texts = pooled_texts(model, text_input, ids)  # (captions of all sets, text_width)
        self._caption_ids = np.array([n for training_set in training_sets for numbers in training_set.caption_ids for n in numbers])
        self._first_caption = _first_captions(training_sets)
        self._names: Tensor | None = None
        if class_names is not None and classifier is not None and model.kept is not None:
            generator = np.random.default_rng([options.seed, 2])
            classes = range(len(class_names.synonyms_by_class))
            drawn = [text for _ in range(NAME_DRAWS) for text in class_names.draw(classes, generator=generator)]
            pooled = pooled_texts(model, text_input, text_input.token_ids(drawn))
            self._names = pooled.reshape(NAME_DRAWS, len(classes), -1).to(self._device)  # (draws, classes, text_width)

    def run(self) -> float:
        """Fits fresh projections; gives the mean loss of the last epoch.

        Raises `InvalidTraining` when the loss stops being a number.
        """
        self._standardise()
        return self._fit(self._options)

    def run_again(self) -> float:
        """Fits trained projections further, with the options that begin with `last_`; returns and raises as `run` does."""
        options = self._options
        return self._fit(
            replace(
                options,
                projection_epochs=options.last_projection_epochs,
                first_learning_rate=options.last_learning_rate,
                class_name_weight=options.last_class_name_weight,
                captions_per_picture=options.last_captions_per_picture,
                seed=options.seed + 1,
            )
        )

    def _fit(self, options: FitOptions) -> float:
        model = self._model
        optimizer = torch.optim.AdamW(projection_parameters(model), lr=options.first_learning_rate, weight_decay=options.weight_decay)
        generator = np.random.default_rng([options.seed, 3])
        steps = num_steps(self._sets, batch_size=options.first_batch_size)
        losses: list[float] = []
        torch.manual_seed(options.seed)
        train_projections(model, options)
        for epoch in range(options.projection_epochs):
            losses = []
            for step, chosen in enumerate(np.array_split(drawn_places(self._sets, generator=generator), steps)):
                factor = cosine_cycle(epoch * steps + step, options.projection_epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = options.first_learning_rate * factor
                with training_autocast(self._device):
                    loss = self._loss(chosen, generator, options)
                check_finite(loss, step=epoch * steps + step + 1)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(float(loss.detach()))
        model.eval()
        return float(np.mean(losses))

    def _standardise(self) -> None:
        """By what is learnt from every epoch; pictures that join in part are of other subjects, and many."""
        model = self._model
        num_rows = sum(len(s.views.stem_maps) for s in self._sets if s.pictures_per_epoch is None) or len(self._tuned)
        model.image_projection.standardise(self._tuned[:num_rows])
        model.text_projection.standardise(self._texts)
        if self._kept is not None and model.kept_projection is not None:
            model.kept_projection.standardise(self._kept[:num_rows])

    def _loss(self, places: np.ndarray[tuple[int, int], np.dtype[np.int64]], generator: np.random.Generator, options: FitOptions) -> Tensor:
        model = self._model
        views = np.array([training_set.views.num_views for training_set in self._sets])[places[:, 0]]
        rows = self._first_row[places[:, 0]] + places[:, 1] * views + generator.integers(views)
        chosen = torch.from_numpy(rows)
        tuned = self._tuned[chosen].to(self._device).float()  # (pictures, pooled_width)
        kept = None if self._kept is None else self._kept[chosen].to(self._device).float()  # (pictures, image_width)
        captions, picture_by_text = self._drawn_captions(places, generator, count=options.captions_per_picture)
        keep_tuned = (torch.rand(len(tuned), 1, device=self._device) >= options.tuned_branch_dropout).float()
        image_embeddings = model.project_images(tuned, kept, keep_tuned=None if kept is None else keep_tuned)
        texts = self._texts[captions].to(self._device)
        text_embeddings = functional.normalize(model.text_projection(texts).float(), dim=-1)
        right = torch.from_numpy(picture_by_text).to(self._device)
        numbers = torch.from_numpy(self._caption_ids[captions]).to(self._device)
        is_same = same_caption_mask(numbers, right, num_pictures=len(tuned))
        scale = model.log_logit_scale.exp().clamp(max=100)
        similarities = cosine_similarities(text_embeddings, image_embeddings)
        loss = itc_loss(similarities, right, is_same_caption=is_same, logit_scale=scale, label_smoothing=options.label_smoothing)
        if self._names is not None and kept is not None:
            loss = loss + options.class_name_weight * self._class_name_terms(image_embeddings, kept, scale, generator)
        return loss

    def _class_name_terms(self, image_embeddings: Tensor, kept: Tensor, scale: Tensor, generator: np.random.Generator) -> Tensor:
        assert self._names is not None
        assert self._classifier is not None
        model = self._model
        names = functional.normalize(model.text_projection(self._names[int(generator.integers(NAME_DRAWS))]).float(), dim=-1)
        classes = torch.from_numpy(generator.integers(len(names), size=len(kept))).to(self._device)
        torch_generator = torch.Generator().manual_seed(int(generator.integers(2**31)))
        made_up = push_towards_classes(kept, classes, self._classifier, generator=torch_generator)
        real_similarities = cosine_similarities(image_embeddings, names)
        real_loss = class_name_loss(real_similarities, class_probabilities(kept, self._classifier), logit_scale=scale)
        made_up_similarities = cosine_similarities(model.project_images(None, made_up), names)
        made_up_loss = class_name_loss(made_up_similarities, class_probabilities(made_up, self._classifier), logit_scale=scale)
        return real_loss + made_up_loss

    def _drawn_captions(
        self, places: np.ndarray[tuple[int, int], np.dtype[np.int64]], generator: np.random.Generator, *, count: int
    ) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
        captions: list[int] = []
        picture_by_text: list[int] = []
        for column, (number, picture) in enumerate(places):
            num_captions = len(self._sets[number].captions[picture])
            for choice in generator.permutation(num_captions)[:count]:
                captions.append(self._first_caption[number][picture] + int(choice))
                picture_by_text.append(column)
        return np.array(captions, dtype=np.int64), np.array(picture_by_text, dtype=np.int64)


def _first_captions(training_sets: Sequence[TrainingSet]) -> list[list[int]]:
    """Where each picture's captions begin among those of all sets."""
    firsts: list[list[int]] = []
    position = 0
    for training_set in training_sets:
        firsts.append([])
        for captions in training_set.captions:
            firsts[-1].append(position)
            position += len(captions)
    return firsts


def _tuned_views(model: DualEncoder, training_set: TrainingSet) -> Tensor:
    """The tuned branch's features of every cached view, (rows, pooled_width), fp16."""
    views = training_set.views
    pooled = torch.empty(len(views.stem_maps), model.config.pooled_width, dtype=torch.float16)
    for start in range(0, len(pooled), ROWS_PER_BATCH):
        with torch.inference_mode(), training_autocast(model.pixel_mean.device):
            features = model.tuned_pooled(stem_tensor(model, views.stem_maps[start : start + ROWS_PER_BATCH]))
            pooled[start : start + ROWS_PER_BATCH] = features.half().cpu()
    return pooled


def projection_parameters(model: DualEncoder) -> list[torch.nn.Parameter]:
    """The parameters that no pretrained backbone brings."""
    return [model.log_logit_scale, *(parameter for projection in projections(model) for parameter in projection.parameters())]


def projections(model: DualEncoder) -> list[Projection]:
    """Those that the model has: of the tuned branch, of the kept branch, of texts."""
    return [p for p in (model.image_projection, model.kept_projection, model.text_projection) if p is not None]


def train_projections(model: DualEncoder, options: FitOptions) -> None:
    """Switches their dropout on."""
    for projection in projections(model):
        projection.train()
        projection.input_dropout.p, projection.hidden_dropout.p = options.input_dropout, options.hidden_dropout


def check_finite(*values: Tensor, step: int) -> None:
    """Raises `InvalidTraining` when a loss or a gradient is no number; the step counts from 1."""
    if not all(bool(value.isfinite()) for value in values):
        what_to_do = "lower the learning rates where the command has options for them, or look for broken pictures and damaged weights"
        raise InvalidTraining(f"the loss is no number at step {step}; {what_to_do}")


def pooled_texts(model: DualEncoder, text_input: TextInput, ids_by_text: Sequence[Sequence[int]]) -> Tensor:
    """Pooled hidden states before the projection, (texts, text_width), in the order given."""
    device = model.pixel_mean.device
    pooled = torch.empty(len(ids_by_text), model.config.text_width)
    for positions, tokens in text_input.batches_by_length(ids_by_text, texts_per_batch=ROWS_PER_BATCH):
        token_ids, mask = torch.from_numpy(tokens.token_ids).to(device), torch.from_numpy(tokens.attention_mask).to(device)
        with torch.inference_mode(), training_autocast(device):
            hidden = model.text_hidden_states(token_ids, mask)
            pooled[torch.from_numpy(positions)] = pool_tokens(hidden, mask, pooling=model.config.text_pooling).float().cpu()
    return pooled
