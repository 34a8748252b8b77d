"""How good the shared space is on pictures that nothing was fitted to, read after each epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sightline.encoders.dual_encoder import DualEncoder
from sightline.encoders.text_input import TextInput
from sightline.metrics import ClassPrecision, HitRates, caption_hit_rates, class_precision
from sightline.training.autocast import training_autocast
from sightline.training.feature_cache import CachedViews
from sightline.training.pairs import CaptionedPicture, check_measurable
from sightline.types import Embeddings

ROWS_PER_BATCH = 256


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Pictures kept out of training, with the first of their cached views."""

    name: str
    pictures: Sequence[CaptionedPicture]
    views: CachedViews

    def __post_init__(self) -> None:
        """Raises `InvalidTraining` where nothing can be asked for, before hours are spent on what cannot be measured."""
        check_measurable(self.name, self.readable_pictures())

    def readable_pictures(self) -> list[CaptionedPicture]:
        """Those that could be decoded, in order."""
        return [self.pictures[int(position)] for position in np.flatnonzero(self.views.is_readable)]


@dataclass(frozen=True, slots=True)
class ValidationFigures:
    """What one validation set says: hit rates both ways for captions, precision for classes."""

    name: str
    text_to_image: HitRates | None
    image_to_text: HitRates | None
    class_names: ClassPrecision | None

    def __str__(self) -> str:
        if self.class_names is not None:
            found = self.class_names
            return f"{self.name}: precision@10 {found.precision_at_10:.1f} ({found.num_without_hit} names with nothing right)"
        return f"{self.name}: text-to-image {self.text_to_image}, image-to-text {self.image_to_text}"


def validate(model: DualEncoder, text_input: TextInput, validation_set: ValidationSet) -> ValidationFigures:
    """Figures of `model`, which must be in evaluation mode. A set whose every picture has a class is asked by class name."""
    pictures = validation_set.readable_pictures()
    first_rows = np.flatnonzero(validation_set.views.is_readable) * validation_set.views.num_views
    image_embeddings = embed_views(model, validation_set.views, rows=first_rows)
    classes = [picture.class_name for picture in pictures]
    if all(name is not None for name in classes):
        return _class_figures(model, text_input, validation_set.name, pictures, image_embeddings)
    captions = [caption for picture in pictures for caption in picture.captions]
    picture_by_text = np.repeat(np.arange(len(pictures)), [len(picture.captions) for picture in pictures])
    text_embeddings = embed_captions(model, text_input, captions)
    text_to_image, image_to_text = caption_hit_rates(text_embeddings, image_embeddings, picture_by_text)
    return ValidationFigures(validation_set.name, text_to_image, image_to_text, None)


def _class_figures(
    model: DualEncoder, text_input: TextInput, name: str, pictures: Sequence[CaptionedPicture], image_embeddings: Embeddings
) -> ValidationFigures:
    # The caption is the class as a person would type it ("grand piano"); the class is a label ("grand_piano").
    text_by_class = {str(picture.class_name): (picture.captions or (str(picture.class_name),))[0] for picture in pictures}
    similarities = embed_captions(model, text_input, list(text_by_class.values())) @ image_embeddings.T
    precision = class_precision(similarities, [str(picture.class_name) for picture in pictures], list(text_by_class))
    return ValidationFigures(name, None, None, precision)


def embed_views(model: DualEncoder, views: CachedViews, *, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Embeddings:
    """Embeddings of cached rows, (rows, embedding_dim)."""
    device = model.pixel_mean.device
    parts = []
    for start in range(0, len(rows), ROWS_PER_BATCH):
        chosen = rows[start : start + ROWS_PER_BATCH]
        with torch.inference_mode(), training_autocast(device):
            stem_maps = stem_tensor(model, views.stem_maps[chosen])
            kept = None if views.kept_pooled is None else torch.from_numpy(views.kept_pooled[chosen]).to(device).float()
            parts.append(model.project_images(model.tuned_pooled(stem_maps), kept).float().cpu().numpy())
    return np.concatenate(parts)


def embed_captions(model: DualEncoder, text_input: TextInput, captions: Sequence[str]) -> Embeddings:
    """Embeddings of texts in the order given, (texts, embedding_dim)."""
    device = model.pixel_mean.device
    ids_by_text = text_input.token_ids(captions)
    embeddings = np.empty((len(captions), model.config.embedding_dim), dtype=np.float32)
    for positions, tokens in text_input.batches_by_length(ids_by_text, texts_per_batch=ROWS_PER_BATCH):
        with torch.inference_mode(), training_autocast(device):
            token_ids, mask = torch.from_numpy(tokens.token_ids).to(device), torch.from_numpy(tokens.attention_mask).to(device)
            embeddings[positions] = model.embed_tokens(token_ids, mask).float().cpu().numpy()
    return embeddings


def stem_tensor(model: DualEncoder, stem_maps: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
    """Cached maps on the model's device; pixels pass the (unfrozen) normalisation on their way."""
    tensor = torch.from_numpy(np.ascontiguousarray(stem_maps)).to(model.pixel_mean.device)
    if tensor.dtype == torch.uint8:
        return model.stem_maps(tensor)
    return tensor.float().contiguous(memory_format=torch.channels_last)
