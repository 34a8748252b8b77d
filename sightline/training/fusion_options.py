"""How a fusion encoder is fitted; the defaults are sightline-mini's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FusionFitOptions:
    """Numbers of a run; rates are the peaks of a cosine cycle."""

    alignment_epochs: int = 10
    alignment_batch_size: int = 128
    alignment_learning_rate: float = 1e-3
    queue_size: int = 0  # pairs of the steps before that are negatives of the alignment too
    fusion_epochs: int = 4
    fusion_batch_size: int = 64  # of each batch every text meets every picture: memory and time grow with the square
    fusion_learning_rate: float = 5e-4
    likelihood_epochs: int = 16  # 0: no likelihood of words
    likelihood_batch_size: int = 256
    likelihood_learning_rate: float = 1.5e-3
    likelihood_weight_decay: float = 0.1
    likelihood_dropout: float = 0.5  # of its hidden layer
    vocabulary_least_captions: int = 5  # that a word has to be in
    second_epochs: int = 30  # of the second space, where there is a second backbone
    second_batch_size: int = 512
    second_learning_rate: float = 1e-3
    second_hidden_dim: int = 512
    second_image_input_dropout: float = 0.3  # of the components that its projections read
    second_image_dropout: float = 0.5  # of their hidden layer
    second_text_input_dropout: float = 0.1
    second_text_dropout: float = 0.2
    itm_weight: float = 0.5  # of the matching loss over hard negatives, beside the contrastive loss over the whole batch's 1
    hard_negative_scale: float = 30.0  # inverse temperature of the similarities that hard negatives are drawn by
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    token_dropout: float = 0.1  # of numbers in image and text tokens
    word_dropout: float = 0.1  # of whole words
    layer_dropout: float = 0.1
    max_words: int = 32
    max_gradient_norm: float = 5.0
    average_decay: float = 0.98  # of the weight average, a step
    checkpoint_seconds: float = 180.0
    rerank_depth: int = 64  # of validation
    seed: int = 0
