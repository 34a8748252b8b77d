"""The dual encoder: an image backbone and a text backbone with projections into one shared space.

Image-text contrastive learning as in CLIP (Radford et al. 2021) over backbones that were trained apart, as in LiT (Zhai et al. 2022).
Where we differ: the image side may have two branches that share the frozen stages. The *tuned* branch learns what captions talk about;
the *kept* branch keeps its pretrained stages as they were, so that what its classifier knew ("butterfly") survives a fine-tuning on
captions that never mention it. Their projections add up before the normalisation:

    image embedding = normalise(A(pool(tuned(maps))) + B(pool(kept(maps))))
    text embedding  = normalise(P(pool(text hidden states)))

The tuned branch may pool every stage and not the last alone (as hypercolumns do, Hariharan et al. 2015): what a scene's colours and
textures are is told by the earlier ones, and the last, made for naming one object, has forgotten it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.image_backbone import ImageBackbone, ImageBackboneConfig

FIRST_LOGIT_SCALE = 35.0
"""Inverse temperature that training starts with."""


@dataclass(frozen=True, slots=True)
class DualEncoderConfig:
    """Everything that, with the weights, makes a dual encoder."""

    image: ImageBackboneConfig
    text_config: dict[str, object]  # transformers' own configuration of the text backbone
    text_pooling: Literal["mean", "first", "last"]
    max_text_tokens: int
    image_width: int  # of the final map
    pooled_width: int  # of what the tuned branch's projection reads: `image_width`, or the widths of all stages together
    pools_stages: bool  # whether it reads the means of every stage from the frozen ones on, or of the final map alone
    text_width: int  # of the hidden states
    embedding_dim: int
    projection_hidden_dim: int
    num_frozen_stages: int  # image stages that training leaves as they were
    has_kept_branch: bool

    @property
    def image_token_dim(self) -> int:
        """Width of the image tokens: every map that is pooled, side by side."""
        return self.pooled_width + (self.image_width if self.has_kept_branch else 0)


class Projection(nn.Module):
    """Two layers from a backbone's width to the shared space, over features that are standardised first.

    Features of different stages differ in size by orders of magnitude; standardised, each counts, and dropping one puts its mean in
    its place.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, in_dim: int, *, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(in_dim))
        self.register_buffer("feature_std", torch.ones(in_dim))
        self.input_dropout = nn.Dropout(0.0)  # training says how much
        self.hidden = nn.Linear(in_dim, hidden_dim)
        self.hidden_dropout = nn.Dropout(0.0)
        self.out = nn.Linear(hidden_dim, out_dim)

    def standardise(self, features: Tensor) -> None:
        """Reads mean and deviation of each feature from (rows, in_dim); features that hardly vary are not blown up."""
        deviation, mean = torch.std_mean(features.float(), dim=0, correction=0)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(deviation + 0.1 * deviation.mean() + 1e-3)

    def forward(self, pooled: Tensor) -> Tensor:
        """(batch, in_dim) -> (batch, out_dim), not normalised."""
        standardised: Tensor = self.input_dropout((pooled.float() - self.feature_mean) / self.feature_std)
        hidden: Tensor = self.hidden_dropout(functional.gelu(self.hidden(standardised)))
        out: Tensor = self.out(hidden)
        return out


class TextSide(nn.Module):
    """What embeds texts: all that a search by words needs."""

    def __init__(self, config: DualEncoderConfig, *, text: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.text = text
        self.text_projection = Projection(config.text_width, hidden_dim=config.projection_hidden_dim, out_dim=config.embedding_dim)

    def text_hidden_states(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (batch, tokens) -> (batch, tokens, text_width)."""
        hidden: Tensor = self.text(input_ids=token_ids, attention_mask=attention_mask).last_hidden_state
        return hidden

    def embed_tokens(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (batch, tokens) -> (batch, embedding_dim), unit length."""
        return self.embed_hidden_states(self.text_hidden_states(token_ids, attention_mask), attention_mask)

    def embed_hidden_states(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """What `text_hidden_states` gave -> (batch, embedding_dim), unit length."""
        projected = self.text_projection(pool_tokens(hidden, attention_mask, pooling=self.config.text_pooling))
        return functional.normalize(projected.float(), dim=-1)


class DualEncoder(TextSide):
    """Backbones and projections; every `embed_*` gives unit length rows."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: DualEncoderConfig, *, image: ImageBackbone, kept: ImageBackbone | None, text: nn.Module) -> None:
        super().__init__(config, text=text)
        hidden_dim, out_dim = config.projection_hidden_dim, config.embedding_dim
        self.image = image
        self.kept = kept  # its frozen stages are those of `image`; see `checkpoint.build_dual_encoder`
        self.image_projection = Projection(config.pooled_width, hidden_dim=hidden_dim, out_dim=out_dim)
        self.kept_projection = Projection(config.image_width, hidden_dim=hidden_dim, out_dim=out_dim) if config.has_kept_branch else None
        # CLIP starts at 14.3 and has the steps to raise it; in a fit of a few thousand it hardly moves, and 14.3 underfits.
        self.log_logit_scale = nn.Parameter(torch.tensor(FIRST_LOGIT_SCALE).log())
        self.register_buffer("pixel_mean", torch.tensor(config.image.pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.image.pixel_std).view(1, 3, 1, 1), persistent=False)

    def stem_maps(self, pixels: Tensor) -> Tensor:
        """What the frozen stages make of uint8 pixels (batch, side, side, 3): (batch, width, height, width of the grid)."""
        scaled = pixels.permute(0, 3, 1, 2).to(self.pixel_mean.dtype) / 255  # (batch, 3, side, side), channels last in memory
        normalised = (scaled - self.pixel_mean) / self.pixel_std
        maps: Tensor = self.image(normalised, 0, self.config.num_frozen_stages)
        return maps

    def token_maps(self, stem_maps: Tensor) -> Tensor:
        """The tuned branch's map before pooling: (batch, image_width, grid_height, grid_width)."""
        maps: Tensor = self.image(stem_maps, self.config.num_frozen_stages)
        return maps

    def tuned_maps(self, stem_maps: Tensor) -> list[Tensor]:
        """What the tuned branch pools, each (batch, width, height, width of its grid), the earliest stage first and the last map last."""
        first = self.config.num_frozen_stages
        if not self.config.pools_stages:
            return [self.token_maps(stem_maps)]
        return [*([stem_maps] if first else []), *self.image.maps_of_stages(stem_maps, first)]

    def tuned_pooled(self, stem_maps: Tensor) -> Tensor:
        """The tuned branch's pooled features (batch, pooled_width), those of the earliest stage first."""
        return pooled(self.tuned_maps(stem_maps))

    def kept_pooled(self, stem_maps: Tensor) -> Tensor:
        """The kept branch's pooled features (batch, image_width); only with `has_kept_branch`."""
        assert self.kept is not None
        return pooled([self.kept(stem_maps)])

    def project_images(self, tuned_pooled: Tensor | None, kept_pooled: Tensor | None, *, keep_tuned: Tensor | None = None) -> Tensor:
        """Pooled features (batch, pooled_width) and (batch, image_width) of either branch or both -> (batch, embedding_dim), unit length.

        `keep_tuned` (batch, 1), zeros and ones, leaves the tuned branch out of a row: training uses it so that the kept branch
        learns to answer alone.
        """
        parts: list[Tensor] = []
        if tuned_pooled is not None:
            tuned = self.image_projection(tuned_pooled)
            parts.append(tuned if keep_tuned is None else tuned * keep_tuned)
        if kept_pooled is not None:
            assert self.kept_projection is not None
            parts.append(self.kept_projection(kept_pooled))
        return functional.normalize(torch.stack(parts).sum(dim=0).float(), dim=-1)

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, side, side, 3) -> (batch, embedding_dim), unit length."""
        return self._embed_maps(*self._branch_maps(pixels))

    def embed_pixels_with_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (batch, side, side, 3) -> embeddings (batch, embedding_dim) and tokens (batch, grid height, grid width, image_token_dim).

        A token is what every map that is pooled has at its place on the last map's grid; finer maps are averaged down to it.
        """
        tuned, kept = self._branch_maps(pixels)
        return self._embed_maps(tuned, kept), gridded_tokens([*tuned, *kept], last=tuned[-1])

    def _branch_maps(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        stem_maps = self.stem_maps(pixels)
        return self.tuned_maps(stem_maps), [] if self.kept is None else [self.kept(stem_maps)]

    def _embed_maps(self, tuned: list[Tensor], kept: list[Tensor]) -> Tensor:
        return self.project_images(pooled(tuned), pooled(kept) if kept else None)


def gridded_tokens(maps: list[Tensor], *, last: Tensor) -> Tensor:
    """Maps, each (batch, width, height, width of its grid), averaged down to the grid of `last` and laid side by side.

    Returns (batch, grid height, grid width, sum of widths).
    """
    grid = (int(last.shape[2]), int(last.shape[3]))
    return torch.cat([functional.adaptive_avg_pool2d(each.float(), grid) for each in maps], dim=1).permute(0, 2, 3, 1)


def pooled(maps: list[Tensor]) -> Tensor:
    """The means of maps (batch, width, height, width of the grid) over their grids, in float32: (batch, sum of widths)."""
    return torch.cat([each.mean(dim=(2, 3), dtype=torch.float32) for each in maps], dim=1)


def pool_tokens(hidden: Tensor, attention_mask: Tensor, *, pooling: Literal["mean", "first", "last"]) -> Tensor:
    """(batch, tokens, width) -> (batch, width): the mean of the real tokens, the first, or the last real one."""
    match pooling:
        case "mean":
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (batch, tokens, 1)
            return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
        case "first":
            return hidden[:, 0]
        case "last":
            last = attention_mask.sum(dim=1).clamp_min(1) - 1  # (batch,)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
