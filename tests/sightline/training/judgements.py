"""Made-up judgements of candidates."""

import numpy as np

from sightline.training.fusion_calibration import JudgedCandidates
from sightline.training.fusion_judging import FACTORS, Judged, SecondSimilarities


def judged(direction: str, logits: np.ndarray, prior: np.ndarray) -> Judged:
    """Ten queries over five candidates each, of which the first is right and similarity tells nothing."""
    is_relevant = np.zeros(logits.shape, dtype=np.bool_)
    is_relevant[:, 0] = True
    candidates = JudgedCandidates("made-up", np.zeros(logits.shape, dtype=np.float32), logits, is_relevant)
    priors, nothing = np.broadcast_to(prior, (len(FACTORS), *logits.shape)), np.zeros((len(FACTORS), *logits.shape))
    of_images, of_texts = (priors, nothing) if direction == "text-to-image" else (nothing, priors)
    zeros = np.zeros(logits.shape, dtype=np.float32)
    return Judged(direction, candidates, of_images, of_texts, zeros, SecondSimilarities(zeros, zeros, zeros))
