"""Pairs of earlier steps as negatives: what is kept, what it costs a pair, and that averaged weights read it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sightline.encoders.fusion_encoder import FusionEncoder, Words
from sightline.training.fusion_fit import FusionTrainer
from sightline.training.losses import itc_loss, queued_itc_loss
from sightline.training.momentum_queue import MomentumQueue, QueuedPairs, queued_alignments
from tests.sightline.training.squares import Interrupted
from tests.sightline.training.test_fusion_fit import QUICK, Recorder, fresh
from tests.sightline.training.worlds import CONFIG, scenes


def _pairs(ids: list[int], *, num_words: int = 3, seed: int = 0) -> QueuedPairs:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(ids), num_words, CONFIG.text_width, generator=generator)
    tokens = torch.randn(len(ids), CONFIG.num_patches, CONFIG.token_dim, generator=generator)
    return QueuedPairs(tokens, Words(hidden, torch.ones(len(ids), num_words, dtype=torch.bool)), torch.tensor(ids))


def _kept(queue: MomentumQueue) -> list[int]:
    pairs = queue.pairs()
    return [] if pairs is None else pairs.caption_ids.tolist()


def test_the_last_pairs_are_kept_in_their_order() -> None:
    queue = MomentumQueue(5)
    assert _kept(queue) == []
    for ids, kept in (([1, 2], [1, 2]), ([3, 4], [1, 2, 3, 4]), ([5, 6], [2, 3, 4, 5, 6]), ([7, 8, 9, 10, 11, 12], [8, 9, 10, 11, 12])):
        queue.push(_pairs(ids))
        assert _kept(queue) == kept


def test_a_queue_of_no_size_stays_empty() -> None:
    queue = MomentumQueue(0)
    queue.push(_pairs([1, 2]))
    assert queue.pairs() is None


def test_texts_of_other_lengths_are_padded() -> None:
    queue = MomentumQueue(4)
    queue.push(_pairs([1, 2], num_words=2))
    queue.push(_pairs([3], num_words=5))
    pairs = queue.pairs()
    assert pairs is not None
    assert pairs.words.hidden_states.shape[:2] == (3, 5)
    assert pairs.words.mask.sum(dim=1).tolist() == [2, 2, 5]


def _loss(similarities: Tensor, queued: Tensor, *, same: Tensor | None = None) -> float:
    pairs, num_queued = queued.shape
    return float(
        queued_itc_loss(
            similarities,
            (queued, queued),
            is_same=torch.eye(pairs, dtype=torch.bool),
            is_same_queued=torch.zeros(pairs, num_queued, dtype=torch.bool) if same is None else same,
            logit_scale=torch.tensor(1.0),
            label_smoothing=0.0,
        )
    )


def test_a_queued_pair_is_one_more_negative() -> None:
    similarities = torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    assert _loss(similarities, torch.zeros(2, 1)) == pytest.approx(math.log(1 + 2 * math.exp(-1)))
    assert _loss(similarities, torch.tensor([[1.0], [0.0]])) == pytest.approx(
        (math.log(2 + math.exp(-1)) + math.log(1 + 2 * math.exp(-1))) / 2
    )


def test_a_queued_caption_that_is_the_same_is_left_out() -> None:
    similarities = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    same = torch.tensor([[True], [True]])
    assert _loss(similarities, torch.full((2, 1), 50.0), same=same) == pytest.approx(math.log(1 + math.exp(-1)))


def test_with_nothing_queued_it_is_the_loss_of_the_batch() -> None:
    similarities = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    is_same = torch.eye(6, dtype=torch.bool)
    is_same[0, 3] = is_same[3, 0] = True
    scale = torch.tensor(3.0)
    none = torch.zeros(6, 0)
    of_queue = queued_itc_loss(
        similarities, (none, none), is_same=is_same, is_same_queued=none.bool(), logit_scale=scale, label_smoothing=0.05
    )
    of_batch = itc_loss(similarities, torch.arange(6), is_same_caption=is_same, logit_scale=scale, label_smoothing=0.05)
    assert float(of_queue) == pytest.approx(float(of_batch), rel=1e-6)


def test_averaged_weights_read_the_queue_and_get_no_gradient() -> None:
    fusion = fresh()
    torch.manual_seed(7)
    other = FusionEncoder(CONFIG)
    average = {name: tensor.detach().clone() for name, tensor in other.state_dict().items()}
    batch, queued = _pairs([1, 2, 3]), _pairs([4, 5], seed=1)
    patches = fusion.project(batch.image_tokens)
    of_texts, of_pictures = queued_alignments(fusion, average, batch.words, patches, queued)

    hidden, theirs = fusion.text_norm(batch.words.hidden_states), other.text_norm(queued.words.hidden_states)
    with torch.no_grad():
        torch.testing.assert_close(of_texts, fusion.alignment(hidden, batch.words.mask, other.project(queued.image_tokens)))
        torch.testing.assert_close(of_pictures, other.alignment(theirs, queued.words.mask, patches).T)
    (of_texts.sum() + of_pictures.sum()).backward()  # type: ignore[no-untyped-call]
    assert fusion.alignment.word.weight.grad is not None
    assert fusion.patch_projection.linear.weight.grad is not None
    assert all(parameter.grad is None for parameter in other.parameters())


def test_a_run_with_a_queue_goes_on_bit_for_bit(tmp_path: Path) -> None:
    options = replace(QUICK, alignment_epochs=2, alignment_batch_size=16, fusion_epochs=0, queue_size=40, checkpoint_seconds=0.0)

    def fitted(folder: Path, recorder: Recorder) -> dict[str, Tensor]:
        fusion = fresh()
        FusionTrainer(fusion, [scenes(80, seed=1)], options=options, run_folder=folder, device=torch.device("cpu")).fit(recorder)
        return fusion.state_dict()

    undisturbed = fitted(tmp_path / "whole", Recorder())
    with pytest.raises(Interrupted):
        fitted(tmp_path / "broken", Recorder(stop_after=9))
    continued = fitted(tmp_path / "broken", Recorder())
    without = replace(options, queue_size=0)
    plain = fresh()
    FusionTrainer(plain, [scenes(80, seed=1)], options=without, run_folder=tmp_path / "plain", device=torch.device("cpu")).fit(Recorder())

    for name, tensor in undisturbed.items():
        assert torch.equal(continued[name], tensor), name
    assert not torch.equal(plain.alignment.word.weight, undisturbed["alignment.word.weight"])
