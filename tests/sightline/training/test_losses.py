"""Losses against hand-computed numbers, plain loops and CLIP's own formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sightline.training.losses import class_name_loss, cosine_similarities, itc_loss, same_caption_mask

ONE = torch.tensor(1.0)


def _loss(
    similarities: Tensor, picture_by_text: list[int], *, same: Tensor | None = None, scale: float = 1.0, smoothing: float = 0.0
) -> Tensor:
    is_same = torch.zeros_like(similarities, dtype=torch.bool) if same is None else same
    return itc_loss(
        similarities,
        torch.tensor(picture_by_text, dtype=torch.int64),
        is_same_caption=is_same,
        logit_scale=torch.tensor(scale),
        label_smoothing=smoothing,
    )


def test_two_pairs_by_hand() -> None:
    similarities = torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    assert float(_loss(similarities, [0, 1])) == pytest.approx(math.log(1 + math.exp(-1)))
    assert float(_loss(similarities, [1, 0])) == pytest.approx(math.log(1 + math.exp(1)))


def test_a_picture_with_two_texts_shares_its_target_between_them() -> None:
    similarities = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])

    text_to_image = (2 * math.log(1 + math.exp(-1)) + math.log(2)) / 3
    total = math.e + 2
    first = math.log(total) - (1 + 0) / 2  # the mean over its two texts, whose logits are 1 and 0
    second = math.log(total) - 1
    assert float(_loss(similarities, [0, 0, 1])) == pytest.approx((text_to_image + (first + second) / 2) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_with_one_text_a_picture_it_is_clips_symmetric_cross_entropy(smoothing: float) -> None:
    similarities = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(7)

    expected = (
        functional.cross_entropy(similarities * 14.3, targets, label_smoothing=smoothing)
        + functional.cross_entropy(similarities.T * 14.3, targets, label_smoothing=smoothing)
    ) / 2
    torch.testing.assert_close(_loss(similarities, list(range(7)), scale=14.3, smoothing=smoothing), expected)


def _by_loops(similarities: Tensor, picture_by_text: list[int], same: Tensor, *, scale: float, smoothing: float) -> float:
    num_texts, num_pictures = similarities.shape

    def cross_entropy(logits: list[float], right: list[bool], out: list[bool]) -> float:
        total = math.log(sum(math.exp(logit) for logit, is_out in zip(logits, out, strict=True) if not is_out))
        kept = [(logit - total, is_right) for logit, is_right, is_out in zip(logits, right, out, strict=True) if not is_out]
        on_right = [log_probability for log_probability, is_right in kept if is_right]
        return -(1 - smoothing) * sum(on_right) / len(on_right) - smoothing * sum(value for value, _ in kept) / len(kept)

    is_right = [[picture_by_text[text] == picture for picture in range(num_pictures)] for text in range(num_texts)]
    is_out = [[bool(same[text, picture]) and not is_right[text][picture] for picture in range(num_pictures)] for text in range(num_texts)]
    logits = [[scale * float(similarities[text, picture]) for picture in range(num_pictures)] for text in range(num_texts)]
    by_text = [cross_entropy(logits[text], is_right[text], is_out[text]) for text in range(num_texts)]
    by_picture = [
        cross_entropy([row[picture] for row in logits], [row[picture] for row in is_right], [row[picture] for row in is_out])
        for picture in sorted(set(picture_by_text))
    ]
    return (sum(by_text) / len(by_text) + sum(by_picture) / len(by_picture)) / 2


@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(1, 9), st.sampled_from([0.0, 0.05, 0.3]))
def test_loss_and_gradient_are_those_of_a_plain_loop(seed: int, num_pictures: int, num_texts: int, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarities = (2 * torch.rand(num_texts, num_pictures, generator=generator) - 1).requires_grad_()
    picture_by_text = torch.randint(num_pictures, (num_texts,), generator=generator)
    caption_ids = torch.randint(4, (num_texts,), generator=generator)
    same = same_caption_mask(caption_ids, picture_by_text, num_pictures=num_pictures)

    loss = _loss(similarities, picture_by_text.tolist(), same=same, scale=5.0, smoothing=smoothing)
    loss.backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == pytest.approx(
        _by_loops(similarities.detach(), picture_by_text.tolist(), same, scale=5.0, smoothing=smoothing), rel=1e-4, abs=1e-5
    )
    assert similarities.grad is not None
    assert bool(similarities.grad.isfinite().all())
    left_out = same & (picture_by_text[:, None] != torch.arange(num_pictures))
    assert not similarities.grad[left_out].any()


def test_another_pictures_same_caption_is_neither_right_nor_wrong() -> None:
    picture_by_text, caption_ids = torch.tensor([0, 1, 2]), torch.tensor([7, 7, 8])
    same = same_caption_mask(caption_ids, picture_by_text, num_pictures=3)

    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    likes_twin = torch.tensor([[0.5, 0.9, 0.0], [0.9, 0.5, 0.0], [0.0, 0.0, 0.5]])
    unlike_twin = torch.tensor([[0.5, -0.9, 0.0], [-0.9, 0.5, 0.0], [0.0, 0.0, 0.5]])
    torch.testing.assert_close(_loss(likes_twin, [0, 1, 2], same=same), _loss(unlike_twin, [0, 1, 2], same=same))


def test_a_batch_of_nothing_but_twins_has_nothing_to_tell_apart() -> None:
    similarities = torch.zeros(2, 2, requires_grad=True)

    loss = _loss(similarities, [0, 1], same=torch.ones(2, 2, dtype=torch.bool), smoothing=0.1)
    loss.backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == 0.0
    assert similarities.grad is not None
    assert similarities.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_batch_without_texts_costs_nothing_and_can_be_differentiated() -> None:
    images = torch.ones(3, 4, requires_grad=True)

    loss = _loss(torch.zeros(0, 4) @ images.T, [])
    loss.backward()  # type: ignore[no-untyped-call]

    assert float(loss.detach()) == 0.0
    assert images.grad is not None
    assert not images.grad.any()


@pytest.mark.parametrize("place", [(0, 0), (0, 1)])
def test_what_is_no_number_is_not_hidden(place: tuple[int, int]) -> None:
    similarities = torch.zeros(2, 2)
    similarities[place] = torch.nan

    assert bool(_loss(similarities, [0, 1]).isnan())


def test_class_name_loss_by_hand_and_against_cross_entropy() -> None:
    similarities = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    soft = torch.tensor([[0.75, 0.25], [0.5, 0.5]])

    expected = (0.75 * math.log(1 + math.exp(-1)) + 0.25 * math.log(1 + math.e) + math.log(2)) / 2
    assert float(class_name_loss(similarities, soft, logit_scale=ONE)) == pytest.approx(expected)
    hard = functional.one_hot(torch.tensor([1, 0]), 2).float()
    torch.testing.assert_close(
        class_name_loss(similarities, hard, logit_scale=torch.tensor(3.0)), functional.cross_entropy(3 * similarities, torch.tensor([1, 0]))
    )


def test_similarities_and_losses_are_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = (functional.normalize(torch.randn(5, 32, generator=generator), dim=1) for _ in range(2))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarities = cosine_similarities(rows, columns)
        loss = _loss(similarities, list(range(5)), scale=100.0)

    assert similarities.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(similarities, rows @ columns.T)
