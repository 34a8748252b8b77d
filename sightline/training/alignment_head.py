"""Word-to-patch alignment beside the shared space: what makes tokens of the backbones worth a second look.

Tokens of a network that was trained through its pooled embeddings alone say little about where a word's thing is: alignment that was
fitted to such frozen tokens was worth 0.4 points of hit rate@1, and 1.1 after two epochs in which the upper stages moved with it. So the
shared space may be trained with this loss as well. The head has the names of a fusion encoder's alignment and can begin one.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from sightline.encoders.checkpoint import replacing
from sightline.encoders.dual_encoder import DualEncoder
from sightline.encoders.fusion_checkpoint import has_fusion_checkpoint, load_fusion_checkpoint
from sightline.encoders.fusion_encoder import Alignment, FusionEncoder, FusionEncoderConfig, PatchProjection
from sightline.encoders.tokens import GRID_SIDE
from sightline.errors import InvalidCheckpoint
from sightline.training.token_cache import TokenBasis

ALIGNMENT_NAME = "alignment.safetensors"
TOKEN_DROPOUT = 0.1
WORD_DROPOUT = 0.1
_MIN_STD = 1e-3


class AlignmentHead(nn.Module):
    """Cosines of words and what they attend to, summed over a text: stacked cross-attention (Lee et al. 2018)."""

    def __init__(self, *, token_dim: int, text_width: int) -> None:
        super().__init__()
        config = FusionEncoderConfig(token_dim=token_dim, text_width=text_width, grid_height=GRID_SIDE, grid_width=GRID_SIDE)
        self.patch_projection = PatchProjection(token_dim, config.width)
        self.text_norm = nn.LayerNorm(text_width, elementwise_affine=False)
        self.alignment = Alignment(config)
        self.alignment_scale = nn.Parameter(torch.tensor(30.0).log())

    @classmethod
    def of(cls, model: DualEncoder, *, seed: int) -> "AlignmentHead":
        """A fresh head over the tokens of `model`, on its device."""
        config = model.config
        torch.manual_seed(seed)
        return cls(token_dim=config.image_token_dim, text_width=config.text_width).to(model.pixel_mean.device)

    def standardise(self, tokens: Tensor) -> None:
        """Reads mean and deviation of each feature from (rows, token_dim)."""
        deviation, mean = torch.std_mean(tokens.float(), dim=0, correction=0)
        self.patch_projection.token_mean.copy_(mean)
        self.patch_projection.token_std.copy_(deviation + _MIN_STD)

    def patches(self, tokens: Tensor) -> Tensor:
        """Image tokens (images, rows, columns, token_dim) -> patches (images, rows * columns, width) of unit length, dropout applied."""
        projection = self.patch_projection
        standardised = (tokens.flatten(1, 2).float() - projection.token_mean) / projection.token_std
        projected: Tensor = projection.linear(functional.dropout(standardised, TOKEN_DROPOUT, training=self.training))
        return functional.normalize(projected, dim=-1)

    def forward(self, hidden: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
        """Hidden states (texts, words, text_width), mask (texts, words), `patches` of images -> alignment (texts, images), in [-1, 1].

        In training mode words are dropped, never the first.
        """
        is_word = mask.bool()
        if self.training:
            is_word = is_word & (torch.rand(mask.shape, device=mask.device) >= WORD_DROPOUT)
            is_word[:, 0] = True
        hidden = functional.dropout(self.text_norm(hidden.float()), TOKEN_DROPOUT, training=self.training)
        aligned: Tensor = self.alignment(hidden, is_word, patches)
        return aligned

    def begin(self, fusion: FusionEncoder, basis: TokenBasis) -> None:
        """Gives a fusion encoder that reads tokens reduced by `basis` this head's alignment, up to what the reduction loses."""
        projection, theirs = self.patch_projection, fusion.patch_projection
        weight = projection.linear.weight / projection.token_std  # (width, token_dim)
        mean, std, components = (torch.from_numpy(each) for each in (basis.mean, basis.std, basis.components))
        with torch.no_grad():
            theirs.linear.weight.copy_((weight * std) @ components)
            theirs.linear.bias.copy_(projection.linear.bias + weight @ (mean - projection.token_mean))
            fusion.alignment_scale.copy_(self.alignment_scale)
        fusion.alignment.load_state_dict(self.alignment.state_dict())

    def save(self, folder: Path) -> None:
        """Writes the weights beside those of the encoder that they were trained with."""
        with replacing(folder / ALIGNMENT_NAME) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}, temporary)


def load_alignment(folder: Path) -> AlignmentHead | None:
    """The head that was trained with the encoder in `folder`, or that of the fusion encoder beside it; None where there is neither.

    Raises `InvalidCheckpoint` for a damaged one.
    """
    path = folder / ALIGNMENT_NAME
    if not path.is_file():
        return _alignment_of_fusion(folder) if has_fusion_checkpoint(folder) else None
    try:
        state = load_file(path)
        head = AlignmentHead(token_dim=state["patch_projection.linear.weight"].shape[1], text_width=state["alignment.word.weight"].shape[1])
        head.load_state_dict(state)
    except (KeyError, IndexError, RuntimeError, OSError, SafetensorError) as error:
        raise InvalidCheckpoint(f"{path}: no alignment head can be read from it: {error}") from error
    return head.eval()


def _alignment_of_fusion(folder: Path) -> AlignmentHead:
    """What a fusion encoder's alignment has become, to begin another one with."""
    fusion = load_fusion_checkpoint(folder).model
    head = AlignmentHead(token_dim=fusion.config.token_dim, text_width=fusion.config.text_width)
    state = fusion.state_dict()
    head.load_state_dict({name: state[name] for name in head.state_dict()})
    return head.eval()
