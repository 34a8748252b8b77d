"""Match logits and probabilities of texts and stored patches: a fusion encoder with what was fitted after its training.

Three numbers beside the weights were read off validation pictures. How much the match logit counts beside the first stage's similarity
in the final order, for each direction; zero where it would harm. And the line that turns a logit into a probability.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.encoders.composed import autocast_dtype
from sightline.encoders.fusion_encoder import FusionEncoder, Words
from sightline.encoders.fusion_explanation import Explanation, explain
from sightline.encoders.tokens import ImageTokens, TextTokens, on_common_grid
from sightline.errors import EncoderMismatch

_FEW_WORDS = 4
"""A thing's name, in as many pieces as rare names are cut into, is left to the similarity: of 50 class names, reranked by the weight that
serves captions best, 6 points of precision@10 were lost."""

_LEAST_EVIDENCE = np.float32(1e-6)
"""Above 0, so that equal similarities are parted by the match logit."""


@dataclass(frozen=True, slots=True)
class Combination:
    """The final order: first-stage similarity + weight * match logit, one weight a direction."""

    text_to_image: float = 0.0
    image_to_text: float = 0.0

    def __post_init__(self) -> None:
        """Weights are never negative."""
        assert self.text_to_image >= 0
        assert self.image_to_text >= 0


def evidence(num_tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """How much of the weight a text's match logits get in the order, by its number of tokens: almost nothing for one word, most for ten.

    Two of the tokens are the marks around a text. A query of one word asks for any picture of a kind, which the similarity knows best; what
    alignment adds is in how words go together.
    """
    words = np.maximum(np.asarray(num_tokens, dtype=np.float32) - 2, 1)
    return np.maximum(1 - _FEW_WORDS / words, _LEAST_EVIDENCE).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Calibration:
    """match probability = sigmoid(slope * match logit + intercept) (Platt 1999); 0.5 where match and hard negative are equally likely."""

    slope: float = 1.0
    intercept: float = 0.0

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of any shape, in (0, 1)."""
        exponents = np.clip(self.slope * logits.astype(np.float64) + self.intercept, -60.0, 60.0)
        return np.asarray(1.0 / (1.0 + np.exp(-exponents)), dtype=np.float32)


class Matcher(Protocol):
    """What looks at candidates again."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of card and weights; patches remember whose they are by it."""

    @property
    def encoder_fingerprint(self) -> str:
        """Of the dual encoder whose tokens it reads."""

    @property
    def combination(self) -> Combination:
        """How its logits enter the order."""

    @property
    def calibration(self) -> Calibration:
        """How its logits become probabilities."""

    def match_logits(self, texts: TextTokens, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Every text with every picture: tokens and patches (pictures, patches, width) -> (texts, pictures)."""


class FusionMatcher:
    """Our own fusion encoder, over patches that were stored when a picture was indexed. Thread-safe."""

    def __init__(
        self,
        model: FusionEncoder,
        *,
        fingerprint: str,
        encoder_fingerprint: str,
        combination: Combination,
        calibration: Calibration,
        device: torch.device,
    ) -> None:
        self.name = f"the fusion encoder {fingerprint[:12]}"
        self.fingerprint = fingerprint
        self.encoder_fingerprint = encoder_fingerprint
        self.combination = combination
        self.calibration = calibration
        self.patch_dim = model.config.width
        self.grid = (model.config.grid_height, model.config.grid_width)
        self._model = model.to(device).eval()
        self._device = device
        self._autocast_dtype = autocast_dtype(device)

    def project(self, tokens: ImageTokens) -> NDArray[np.float32]:
        """Image tokens to patches as they are stored before quantisation: (pictures, patches, patch_dim), rows of unit length."""
        with torch.inference_mode():
            patches = self._model.project(torch.from_numpy(on_common_grid(tokens)).to(self._device))
        return np.asarray(patches.float().cpu().numpy(), dtype=np.float32)

    def match_logits(self, texts: TextTokens, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Matcher`. Keys and values of a picture are computed once, however many texts are asked."""
        words = Words(
            torch.from_numpy(np.asarray(texts.hidden_states, dtype=np.float32)).to(self._device),
            torch.from_numpy(texts.mask).to(self._device),
        )
        with torch.inference_mode(), torch.autocast(self._device.type, self._autocast_dtype, enabled=self._autocast_dtype is not None):
            logits = self._model(words, torch.from_numpy(np.ascontiguousarray(patches, dtype=np.float32)).to(self._device))
        return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)

    def explain(self, texts: TextTokens, patches: NDArray[np.float32]) -> Explanation:
        """Why one text, (1, tokens, width), matches one picture, patches (1, patches, width), token by token; in float32."""
        words = Words(
            torch.from_numpy(np.asarray(texts.hidden_states, dtype=np.float32)).to(self._device),
            torch.from_numpy(texts.mask).to(self._device),
        )
        return explain(self._model, words, torch.from_numpy(np.ascontiguousarray(patches, dtype=np.float32)).to(self._device))


def check_fits(matcher: Matcher, *, encoder_fingerprint: str, where: str) -> None:
    """Raises `EncoderMismatch` where the matcher was trained on another encoder's tokens."""
    if matcher.encoder_fingerprint != encoder_fingerprint:
        raise EncoderMismatch(
            f"the fusion encoder (fingerprint {matcher.fingerprint[:12]}) reads tokens of the encoder {matcher.encoder_fingerprint[:12]}, "
            f"and {where} was embedded by {encoder_fingerprint[:12]}: train one for it with `sightline train fusion`"
        )
