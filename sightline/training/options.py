"""How a dual encoder is fitted."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How long and how fast; the defaults are those of sightline-mini."""

    epochs: int = 12
    projection_epochs: int = 25
    batch_size: int = 256
    first_batch_size: int = 512  # while the projections are fitted alone
    captions_per_picture: int = 1
    image_learning_rate: float = 3e-4
    projection_learning_rate: float = 4e-4
    text_learning_rate: float = 3e-5
    first_learning_rate: float = 1e-3  # of the projections while they are fitted alone
    last_projection_epochs: int = 0  # of the projections alone once more, on what the tuned backbones give
    last_learning_rate: float = 1e-3
    last_class_name_weight: float = 0.6
    last_captions_per_picture: int = 2
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    class_name_weight: float = 0.4  # of each of its two terms, beside ITC's 1
    input_dropout: float = 0.3  # of the standardised features that a projection reads
    hidden_dropout: float = 0.5  # of its hidden units
    tuned_branch_dropout: float = 0.3  # share of rows that the kept branch must answer alone while projections are fitted
    alignment_weight: float = 0.0  # of the word-to-patch loss beside ITC's 1, for tokens that a fusion encoder will read
    alignment_learning_rate: float = 1e-3  # of its head
    itm_weight: float = 0.0  # beside it, of the matching loss over hard negatives that the similarities find
    hard_negative_scale: float = 30.0  # inverse temperature of the similarities that hard negatives are drawn by
    names_per_step: int = 96  # class names that pass the text backbone with gradient in a step
    steps_per_name_table: int = 6  # the other names come from a table as old as this
    average_decay: float = 0.98  # of the weight average, a step
    max_gradient_norm: float = 5.0
    checkpoint_seconds: float = 180.0
    seed: int = 0
