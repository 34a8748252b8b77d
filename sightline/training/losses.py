"""Losses of the shared space, as pure functions of similarities."""

import torch
from torch import Tensor
from torch.nn import functional

_HALVINGS = 24
"""Of the span of a batch's logits: what is left of it is below float32's precision."""


def cosine_similarities(rows: Tensor, columns: Tensor) -> Tensor:
    """Of embeddings (rows, embedding_dim) and (columns, embedding_dim): (rows, columns), in float32 also under autocast.

    bfloat16 keeps 8 bits: a cosine of 0.3 would be off by up to 0.001, which a logit scale of 100 makes a tenth of a logit, and a CPU's
    autocast would take the softmax in it too.
    """
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float() @ columns.float().T


def itc_loss(
    similarities: Tensor, picture_by_text: Tensor, *, is_same_caption: Tensor, logit_scale: Tensor, label_smoothing: float
) -> Tensor:
    """Image-text contrastive loss over a batch in which a picture may have several texts.

    Args:
        similarities: cosines (texts, pictures).
        picture_by_text: (texts,) the column that is right for each text.
        is_same_caption: bool (texts, pictures), true where *another* picture's caption is this very text: neither right nor wrong,
            left out of the sums.
        logit_scale: inverse temperature, a scalar.
        label_smoothing: share of the target spread over the batch.

    Text-to-image is the cross-entropy of each text over the pictures; image-to-text that of each picture over the texts, its target
    shared evenly by its own texts (Khosla et al. 2020, eq. 2). Their mean is returned. With one text a picture this is CLIP's loss
    (Radford et al. 2021); without any text it is zero.
    """
    num_texts, num_pictures = similarities.shape
    if num_texts == 0:
        return similarities.sum()
    is_right = functional.one_hot(picture_by_text, num_pictures).bool()  # (texts, pictures)
    logits = (similarities * logit_scale).masked_fill(is_same_caption & ~is_right, float("-inf"))
    text_to_image = _smoothed_cross_entropy(logits, is_right, label_smoothing=label_smoothing)
    has_text = is_right.any(dim=0)  # (pictures,)
    image_to_text = _smoothed_cross_entropy(logits.T[has_text], is_right.T[has_text], label_smoothing=label_smoothing)
    return (text_to_image + image_to_text) / 2


def queued_itc_loss(
    similarities: Tensor,
    to_queue: tuple[Tensor, Tensor],
    *,
    is_same: Tensor,
    is_same_queued: Tensor,
    logit_scale: Tensor,
    label_smoothing: float,
) -> Tensor:
    """Image-text contrastive loss over a batch of pairs with queued pairs as further negatives (MoCo, He et al. 2020).

    Args:
        similarities: (pairs, pairs), texts by pictures; the diagonal holds the pairs.
        to_queue: of the texts with the queued pictures, and of the pictures with the queued texts, both (pairs, queued).
        is_same: bool (pairs, pairs), true on the diagonal and where another pair's caption is this very text, which is left out.
        is_same_queued: bool (pairs, queued), true where a queued pair's caption is the pair's: left out.
        logit_scale: inverse temperature, a scalar.
        label_smoothing: share of the target spread over the batch and the queue.

    With nothing queued it is `itc_loss` of one text a picture.
    """
    is_right = torch.eye(len(similarities), dtype=torch.bool, device=similarities.device)
    is_right = functional.pad(is_right, (0, is_same_queued.shape[1]))  # (pairs, pairs + queued)
    losses = []
    for by_batch, same, by_queue in ((similarities, is_same, to_queue[0]), (similarities.T, is_same.T, to_queue[1])):
        logits = torch.cat([by_batch, by_queue], dim=1) * logit_scale
        logits = logits.masked_fill(torch.cat([same, is_same_queued], dim=1) & ~is_right, float("-inf"))
        losses.append(_smoothed_cross_entropy(logits, is_right, label_smoothing=label_smoothing))
    return (losses[0] + losses[1]) / 2


def _smoothed_cross_entropy(logits: Tensor, is_right: Tensor, *, label_smoothing: float) -> Tensor:
    """(queries, candidates): the target is uniform over the right ones, smoothed over all that are not left out."""
    log_probabilities = logits.log_softmax(dim=1)
    is_in = logits.isfinite()
    log_probabilities = log_probabilities.masked_fill(~is_in, 0.0)
    right = (log_probabilities * is_right).sum(dim=1) / is_right.sum(dim=1)
    spread = log_probabilities.sum(dim=1) / is_in.sum(dim=1)
    return -((1 - label_smoothing) * right + label_smoothing * spread).mean()


def class_name_loss(similarities: Tensor, class_probabilities: Tensor, *, logit_scale: Tensor) -> Tensor:
    """Cross-entropy between a classifier's soft labels and the softmax over similarities to class names.

    Args:
        similarities: cosines (pictures, classes).
        class_probabilities: (pictures, classes), each row sums to one.
        logit_scale: inverse temperature, a scalar.
    """
    return -(class_probabilities * (similarities * logit_scale).log_softmax(dim=1)).sum(dim=1).mean()


def same_caption_mask(caption_ids: Tensor, picture_by_text: Tensor, *, num_pictures: int) -> Tensor:
    """Bool (texts, pictures): the picture has a text in this batch with the same caption id.

    Args:
        caption_ids: (texts,) equal numbers for equal captions.
        picture_by_text: (texts,) column of each text's own picture.
    """
    is_equal = (caption_ids[:, None] == caption_ids[None, :]).float()  # (texts, texts)
    texts_of_picture = functional.one_hot(picture_by_text, num_pictures).float()  # (texts, pictures)
    return torch.matmul(is_equal, texts_of_picture) > 0


def itm_loss(logits: Tensor, preferences: Tensor, is_same: Tensor, *, generator: torch.Generator) -> Tensor:
    """Image-text matching over the pairs of a batch and one hard negative for each text and for each picture (ALBEF, Li et al. 2021).

    Args:
        logits: match logits (pairs, pairs), texts by pictures; the diagonal holds the pairs.
        preferences: (pairs, pairs) logits of the distribution that hard negatives are drawn from.
        is_same: bool (pairs, pairs), true wherever a text belongs to a picture, the diagonal included: never a negative.
        generator: draws, on the device of the logits.

    Binary cross-entropy, in which pairs weigh as much as negatives, over the logits less the level that parts them best: where 0 lies
    is for calibration to say. Asked of the network, that level was all that the layers learnt (docs/training.md). A text or picture without
    any negative in the batch gives none, and a batch without any no loss.
    """
    weights = preferences.detach().float().masked_fill(is_same, float("-inf"))
    pairs = logits.diagonal()
    drawn_logits: list[Tensor] = []
    for logits_by_query, weights_by_query in ((logits, weights), (logits.T, weights.T)):
        has_negative = weights_by_query.isfinite().any(dim=1)
        if has_negative.any():
            drawn = torch.multinomial(weights_by_query[has_negative].softmax(dim=1), 1, generator=generator)  # (queries, 1)
            drawn_logits.append(logits_by_query[has_negative].gather(1, drawn)[:, 0])
    if not drawn_logits:
        return 0 * pairs.sum()
    negatives = torch.cat(drawn_logits)
    level = parting_level(pairs.detach(), negatives.detach())
    return (functional.softplus(level - pairs).mean() + functional.softplus(negatives - level).mean()) / 2


def parting_level(pairs: Tensor, negatives: Tensor) -> Tensor:
    """The number that, taken off the match logits of pairs and negatives, makes their binary cross-entropy least.

    There the loss does not change with a constant added to all logits, and so no gradient asks for one.
    """
    every = torch.cat([pairs, negatives])
    low, high = every.min(), every.max()
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        is_low = (negatives - level).sigmoid().mean() > (level - pairs).sigmoid().mean()
        low, high = torch.where(is_low, level, low), torch.where(is_low, high, level)
    return (low + high) / 2
