"""Fitting a fusion encoder, in a made-up world whose pictures are things on a grid and whose captions name them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.encoders.fusion_encoder import FusionEncoder
from sightline.errors import InvalidTraining
from sightline.training.fusion_fit import FusionListener, FusionStep, FusionTrainer
from sightline.training.fusion_options import FusionFitOptions
from sightline.training.losses import itm_loss
from sightline.training.token_cache import CachedTokens
from tests.sightline.training.squares import Interrupted
from tests.sightline.training.worlds import CONFIG, scenes

QUICK = FusionFitOptions(
    alignment_epochs=40,
    alignment_batch_size=32,
    alignment_learning_rate=1e-2,
    fusion_epochs=2,
    fusion_batch_size=16,
    fusion_learning_rate=2e-3,
    average_decay=0.8,
    word_dropout=0.0,
    layer_dropout=0.0,
)


class Recorder(FusionListener):
    """Keeps the steps and stops the run after `stop_after` of them."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.steps: list[tuple[str, int, int]] = []
        self._stop_after = stop_after

    def fusion_step_done(self, report: FusionStep) -> None:
        self.steps.append((report.phase, report.epoch, report.step))
        if len(self.steps) == self._stop_after:
            raise Interrupted


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Products as small as these take one thread a fifth of what they take two that wait for each other on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def fresh() -> FusionEncoder:
    torch.manual_seed(0)
    return FusionEncoder(CONFIG)


def fitted(fusion: FusionEncoder, folder: Path, *, options: FusionFitOptions, recorder: Recorder | None = None) -> FusionEncoder:
    trainer = FusionTrainer(fusion, [scenes(160, seed=1)], options=options, run_folder=folder, device=torch.device("cpu"))
    trainer.fit(recorder or Recorder())
    return fusion


def first_places(fusion: FusionEncoder, held_out: CachedTokens) -> float:
    """Percent of texts whose own picture has the highest match logit, or one that the caption fits as well."""
    words = held_out.words(np.arange(len(held_out.picture_by_text)), max_words=8)
    with torch.inference_mode():
        patches = fusion.project(torch.from_numpy(held_out.image_tokens[::2].astype(np.float32)))
        best = fusion.eval()(words, patches).argmax(dim=1).numpy()
    return 100 * float(np.mean(held_out.caption_ids[best] == held_out.caption_ids))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> FusionEncoder:
    return fitted(fresh(), tmp_path_factory.mktemp("trained"), options=QUICK)


def test_captions_find_pictures_that_were_never_seen(trained: FusionEncoder) -> None:
    held_out = scenes(40, seed=2)
    assert first_places(fresh(), held_out) <= 15

    assert first_places(trained, held_out) >= 90


def test_a_run_goes_on_bit_for_bit_in_either_phase(tmp_path: Path) -> None:
    options = replace(QUICK, alignment_epochs=2, fusion_epochs=2, checkpoint_seconds=0.0, layer_dropout=0.1)
    whole = Recorder()
    undisturbed = fitted(fresh(), tmp_path / "whole", options=options, recorder=whole).state_dict()

    broken, folder = fresh(), tmp_path / "broken"
    seen: list[tuple[str, int, int]] = []
    for stop_after in (7, 9):  # in the second epoch of alignment, then in the layers' second
        recorder = Recorder(stop_after=stop_after)
        with pytest.raises(Interrupted):
            fitted(broken, folder, options=options, recorder=recorder)
        seen += recorder.steps[:-1]  # the last step was taken and not yet saved
        broken = fresh()
    recorder = Recorder()
    continued = fitted(broken, folder, options=options, recorder=recorder).state_dict()

    assert seen + recorder.steps == whole.steps
    for name, tensor in undisturbed.items():
        assert torch.equal(continued[name], tensor), name


def test_a_token_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    spoilt = scenes(20, seed=3)
    spoilt.image_tokens[:, 0] = np.nan
    trainer = FusionTrainer(fresh(), [spoilt], options=QUICK, run_folder=tmp_path, device=torch.device("cpu"))
    with pytest.raises(
        InvalidTraining, match="step 1; lower the learning rates where the command has options for them, or look for broken pictures"
    ):
        trainer.fit(Recorder())


def test_one_pair_has_nothing_to_differ_from(tmp_path: Path) -> None:
    with pytest.raises(InvalidTraining, match="fewer than two"):
        FusionTrainer(fresh(), [scenes(1, seed=3)], options=QUICK, run_folder=tmp_path, device=torch.device("cpu"))


def test_matching_loss_is_that_of_a_hand_computed_table() -> None:
    logits = torch.tensor([[6.0, 3.0], [3.0, 6.0]])
    is_same = torch.eye(2, dtype=torch.bool)

    loss = itm_loss(logits, torch.zeros(2, 2), is_same, generator=torch.Generator())

    # Pairs at 6 and negatives at 3 are parted best by 4.5, and each costs softplus(-1.5) = 0.201413.
    assert float(loss) == pytest.approx(0.201413, abs=1e-6)


def test_matching_loss_asks_for_no_constant() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(16, 16, generator=generator).requires_grad_()
    is_same = torch.eye(16, dtype=torch.bool)

    def loss_at(level: float) -> torch.Tensor:
        return itm_loss(logits + level, torch.zeros(16, 16), is_same, generator=torch.Generator().manual_seed(5))

    (gradient,) = torch.autograd.grad(loss_at(0.0), logits)
    assert float(gradient.abs().sum()) > 0.1
    assert float(gradient.sum()) == pytest.approx(0, abs=1e-6)
    assert float(loss_at(-40.0).detach()) == pytest.approx(float(loss_at(0.0).detach()), abs=1e-5)


def test_the_layers_learn_more_than_a_constant(trained: FusionEncoder) -> None:
    held_out = scenes(40, seed=2)
    words = held_out.words(np.arange(40), max_words=8)
    with torch.inference_mode():
        patches = trained.project(torch.from_numpy(held_out.image_tokens[::2].astype(np.float32)))
        aligned = trained.alignment(trained.text_norm(words.hidden_states), words.mask, patches)
        of_layers = trained(words, patches) - trained.logits(aligned, torch.zeros(40, 40))  # (texts, pictures)

    # While the matching loss asked for a level, the layers gave that and nothing else: -0.67 for every pair, within 0.0006.
    assert float(of_layers.mean().abs()) < 10 * float(of_layers.std()), (of_layers.mean(), of_layers.std())


def test_no_picture_of_the_same_caption_is_ever_a_negative() -> None:
    logits = torch.tensor([[0.0, 50.0, 0.0], [50.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # a negative of 50 would cost 50
    is_same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])

    for seed in range(20):
        assert float(itm_loss(logits, 9 * logits, is_same, generator=torch.Generator().manual_seed(seed))) == pytest.approx(np.log(2))


def test_hard_negatives_are_drawn_by_preference() -> None:
    logits = torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    preferences = torch.zeros(3, 3)
    preferences[0, 1] = 100  # the first text's negative is the second picture; the second picture's is the first text
    drawn = [
        float(itm_loss(logits, preferences, torch.eye(3, dtype=torch.bool), generator=torch.Generator().manual_seed(n))) for n in range(9)
    ]

    levels = np.linspace(0, 3, 30_001)
    pairs, negatives = np.log1p(np.exp(levels)), (2 * np.log1p(np.exp(3 - levels)) + 4 * np.log1p(np.exp(-levels))) / 6
    assert drawn == pytest.approx([float(((pairs + negatives) / 2).min())] * 9, abs=1e-6)


def test_a_batch_without_any_negative_teaches_nothing() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = itm_loss(logits, logits, torch.ones(2, 2, dtype=torch.bool), generator=torch.Generator())

    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == 0
    assert not gradient.any()
