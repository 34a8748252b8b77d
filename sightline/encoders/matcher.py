"""Match logits and probabilities of texts and stored patches: a fusion encoder with what was fitted after its training.

Three numbers beside the weights were read off validation pictures. How much the match logit counts beside the first stage's similarity
in the final order, for each direction; zero where it would harm. And the line that turns a logit into a probability.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.encoders.device import autocast_dtype
from sightline.encoders.fusion_encoder import FusionEncoder, Priors, Words
from sightline.encoders.fusion_explanation import Explanation, explain
from sightline.encoders.tokens import ImageTokens, TextTokens, on_common_grid
from sightline.errors import EncoderMismatch

if TYPE_CHECKING:  # it imports timm, which a search by words can do without
    from sightline.encoders.second_backbone import SecondBackbone

_FEW_WORDS = 4
"""A thing's name, in as many pieces as rare names are cut into, is left to the similarity: of 50 class names, reranked by the weight that
serves captions best, 6 points of precision@10 were lost."""

_LEAST_EVIDENCE = np.float32(1e-6)
"""Above 0, so that equal similarities are parted by the match logit."""

USUAL_TOKENS = 13.0
"""Of a caption, the marks around it included."""

_PICTURES_AT_ONCE = 32
"""Whose priors are computed in one go: against a bank of three thousand words each product of theirs takes 11 MB in half precision."""


@dataclass(frozen=True, slots=True)
class Combination:
    """The final order: first-stage similarity + weight * share of the text * match logit, one weight a direction.

    The share is the text's evidence; among texts, which differ in length, also a power of that: the more words a logit is summed over,
    the further it lies from others by chance.
    """

    text_to_image: float = 0.0
    image_to_text: float = 0.0
    length_exponent: float = 0.0  # of (tokens / `USUAL_TOKENS`), among texts; 0: their lengths do not matter

    def __post_init__(self) -> None:
        """Weights are never negative."""
        assert self.text_to_image >= 0
        assert self.image_to_text >= 0

    def shares_among_texts(self, num_tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of texts of so many tokens, (texts,), that a picture looks for."""
        return evidence(num_tokens) * length_factors(num_tokens, exponent=self.length_exponent)


def evidence(num_tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """How much of the weight a text's match logits get in the order, by its number of tokens: almost nothing for one word, most for ten.

    Two of the tokens are the marks around a text. A query of one word asks for any picture of a kind, which the similarity knows best; what
    alignment adds is in how words go together.
    """
    words = np.maximum(np.asarray(num_tokens, dtype=np.float32) - 2, 1)
    return np.maximum(1 - _FEW_WORDS / words, _LEAST_EVIDENCE).astype(np.float32)


def length_factors(num_tokens: NDArray[np.int64], *, exponent: float) -> NDArray[np.float32]:
    """1 for a text of the usual length, of any shape."""
    return ((np.asarray(num_tokens, dtype=np.float32) / USUAL_TOKENS) ** exponent).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Calibration:
    """match probability = sigmoid(slope * match logit + intercept) (Platt 1999); 0.5 where match and hard negative are equally likely.

    What a logit means depends on how much was said: the line of a text of many words and that of a text of few are mixed by its evidence.
    """

    slope: float = 1.0
    intercept: float = 0.0
    few_words_slope: float | None = None  # None: as for many
    few_words_intercept: float | None = None

    def probabilities(self, logits: NDArray[np.float32], evidence: NDArray[np.float32] | float = 1.0) -> NDArray[np.float32]:
        """Of any shape, with the evidence of their texts (see `evidence`), which may be of any shape that fits: in (0, 1)."""
        few_slope = self.slope if self.few_words_slope is None else self.few_words_slope
        few_intercept = self.intercept if self.few_words_intercept is None else self.few_words_intercept
        slopes = few_slope + (self.slope - few_slope) * evidence
        intercepts = few_intercept + (self.intercept - few_intercept) * evidence
        exponents = np.clip(slopes * logits.astype(np.float64) + intercepts, -60.0, 60.0)
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

    def match_logits(
        self, texts: TextTokens, patches: NDArray[np.float32], *, image_priors: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Every text with every picture: tokens and what is stored (pictures, rows, width) -> (texts, pictures).

        `image_priors` are those of the pictures, (pictures,), as they are stored with patches; NaN, or None for all, where they are to be
        computed, which takes longer than all else.
        """


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
        load_second_backbone: "Callable[[], SecondBackbone] | None" = None,
    ) -> None:
        """`load_second_backbone` is called once, when a picture is first projected: a search by words needs no image backbone."""
        self.name = f"the fusion encoder {fingerprint[:12]}"
        self.fingerprint = fingerprint
        self.encoder_fingerprint = encoder_fingerprint
        self.combination = combination
        self.calibration = calibration
        self.patch_dim = model.config.width
        self.grid = (model.config.grid_height, model.config.grid_width)
        self.num_whole_rows = model.config.num_whole_rows
        assert (load_second_backbone is None) == (model.second is None)
        self._load_second_backbone = load_second_backbone
        self._second_backbone: SecondBackbone | None = None
        self._loading = threading.Lock()
        self._model = model.to(device).eval()
        self._device = device
        self._autocast_dtype = autocast_dtype(device)
        with torch.no_grad():
            self._model.freeze(self._autocast_dtype)

    def project(self, tokens: ImageTokens) -> NDArray[np.float32]:
        """Image tokens to what is stored of pictures, before quantisation: (pictures, rows, patch_dim).

        Patches of unit length come first; where there is a second backbone, it reads the pictures here. Raises `EncoderMismatch` for an
        encoder whose pictures keep their shapes, which a second backbone does not read.
        """
        features = self._features(tokens)
        with torch.inference_mode():
            patches = self._model.project(torch.from_numpy(on_common_grid(tokens)).to(self._device), features)
        return np.asarray(patches.float().cpu().numpy(), dtype=np.float32)

    def _features(self, tokens: ImageTokens) -> torch.Tensor | None:
        if self._load_second_backbone is None:
            return None
        if tokens.pixels is None:
            raise EncoderMismatch(f"{self.name} reads pictures by a second backbone, and this encoder shows it none")
        second = self.load_second_backbone()
        assert second is not None
        return torch.from_numpy(second.features(tokens.pixels)).to(self._device)

    @property
    def has_second_backbone(self) -> bool:
        """Whether it runs a network of its own over every picture that it projects."""
        return self._load_second_backbone is not None

    def load_second_backbone(self) -> "SecondBackbone | None":
        """That network, which is read from disk where it is not in memory yet; None without one."""
        with self._loading:
            if self._second_backbone is None and self._load_second_backbone is not None:
                self._second_backbone = self._load_second_backbone().reading_on(self._device)
            return self._second_backbone

    def image_priors(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is taken off of every match with a picture: (pictures, rows, width) -> (pictures,). Some 1 ms a picture on two cores."""
        blocks = [patches[start : start + _PICTURES_AT_ONCE] for start in range(0, len(patches), _PICTURES_AT_ONCE)]
        with torch.inference_mode(), self._autocast():
            priors = [self._model.image_priors(self._tensor(block)).float().cpu().numpy() for block in blocks]
        return np.concatenate([np.empty(0, dtype=np.float32), *priors])

    def text_priors(self, texts: TextTokens) -> NDArray[np.float32]:
        """What is taken off of every match with a text: (texts,)."""
        with torch.inference_mode(), self._autocast():
            priors = self._model.text_priors(self._words(texts))
        return np.asarray(priors.float().cpu().numpy(), dtype=np.float32)

    def match_logits(
        self,
        texts: TextTokens,
        patches: NDArray[np.float32],
        *,
        image_priors: NDArray[np.float32] | None = None,
        text_priors: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """See `Matcher`; `text_priors`, (texts,), likewise, for who reads a text against one block of pictures after the other.

        Keys and values of a picture are computed once, however many texts are asked.
        """
        of_images = self._known_image_priors(patches, image_priors)
        of_texts = self.text_priors(texts) if text_priors is None else text_priors
        priors = Priors(self._tensor(of_images), self._tensor(of_texts))
        with torch.inference_mode(), self._autocast():
            logits = self._model(self._words(texts), self._tensor(patches), priors=priors)
        return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)

    def match_logits_each(
        self,
        texts: TextTokens,
        patches: NDArray[np.float32],
        *,
        image_priors: NDArray[np.float32],
        text_priors: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Every text with pictures of its own, in one pass: (texts, pictures, rows, width) -> (texts, pictures).

        `image_priors` are (texts, pictures), NaN as in `Matcher.match_logits`, `text_priors` (texts,).
        """
        flat = self._known_image_priors(patches.reshape(-1, *patches.shape[2:]), image_priors.reshape(-1))
        priors = Priors(self._tensor(flat.reshape(image_priors.shape)), self._tensor(text_priors))
        with torch.inference_mode(), self._autocast():
            logits = self._model.forward_each(self._words(texts), self._tensor(patches), priors=priors)
        return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)

    def explain(self, texts: TextTokens, patches: NDArray[np.float32]) -> Explanation:
        """Why one text, (1, tokens, width), matches one picture, stored rows (1, rows, width), token by token; in float32."""
        return explain(self._model, self._words(texts), self._tensor(patches))

    def _known_image_priors(self, patches: NDArray[np.float32], priors: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Those that are given, and the others computed."""
        if priors is None:
            return self.image_priors(patches)
        is_missing = np.isnan(priors)
        if not is_missing.any():
            return priors
        known = priors.copy()
        known[is_missing] = self.image_priors(patches[is_missing])
        return known

    def _words(self, texts: TextTokens) -> Words:
        mask, token_ids = (torch.from_numpy(each).to(self._device) for each in (texts.mask, texts.token_ids))
        return Words(self._tensor(texts.hidden_states), mask, token_ids)

    def _tensor(self, values: NDArray[np.float32]) -> torch.Tensor:
        # `W`: what is mapped from a file is read-only, which torch takes with a warning.
        return torch.from_numpy(np.require(values, dtype=np.float32, requirements=["C", "W"])).to(self._device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._autocast_dtype, enabled=self._autocast_dtype is not None)


def check_fits(matcher: Matcher, *, encoder_fingerprint: str, where: str) -> None:
    """Raises `EncoderMismatch` where the matcher was trained on another encoder's tokens."""
    if matcher.encoder_fingerprint != encoder_fingerprint:
        raise EncoderMismatch(
            f"the fusion encoder (fingerprint {matcher.fingerprint[:12]}) reads tokens of the encoder {matcher.encoder_fingerprint[:12]}, "
            f"and {where} was embedded by {encoder_fingerprint[:12]}: train one for it with `sightline train fusion`"
        )
