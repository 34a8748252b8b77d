"""The whole fit on coloured balls and cubes: it learns, it goes on after a kill as if never stopped, and it says when it cannot."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sightline.encoders.checkpoint import load_checkpoint, save_checkpoint
from sightline.encoders.dual_encoder import gridded_tokens
from sightline.errors import InvalidTraining
from sightline.training.backbones import Classifier, Start
from sightline.training.batches import TrainingSet
from sightline.training.class_names import ClassNames
from sightline.training.options import FitOptions
from sightline.training.projection_fit import ProjectionFit
from sightline.training.shared_space import FitListener, SharedSpaceTrainer, StepReport
from sightline.training.validation import ValidationFigures, ValidationSet, validate
from tests.sightline.training.squares import Interrupted, cached, captioned_squares, interrupted, tiny_start, training_set

QUICK = FitOptions(
    epochs=3,
    projection_epochs=15,
    batch_size=24,
    first_batch_size=24,
    input_dropout=0.0,  # a network of 32 hidden units has none to spare
    hidden_dropout=0.1,
    captions_per_picture=1,
    image_learning_rate=1e-3,
    projection_learning_rate=2e-3,
    text_learning_rate=2e-3,
    first_learning_rate=1e-2,
    average_decay=0.8,
    names_per_step=2,
    steps_per_name_table=3,
)
SHORT = replace(QUICK, epochs=2, projection_epochs=1, batch_size=12, first_batch_size=12)
NAMES = ClassNames((("ball", "globe"), ("cube",), ("dog", "hound"), ("beach",)))
ROOT = Path(__file__).resolve().parents[3]


def with_classifier(start: Start) -> Start:
    """The start with a made-up classifier of four classes over its pooled features."""
    generator = torch.Generator().manual_seed(5)
    width = start.model.config.image_width
    return replace(start, classifier=Classifier(torch.randn(4, width, generator=generator), torch.zeros(4)))


class Recorder(FitListener):
    """Keeps what it is told and stops the run after `stop_after` steps."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.steps: list[StepReport] = []
        self.epochs: list[int] = []
        self.figures: list[Sequence[ValidationFigures]] = []
        self.projection_losses: list[float] = []
        self._stop_after = stop_after

    def projections_fitted(self, loss: float, duration_s: float) -> None:
        self.projection_losses.append(loss)

    def step_done(self, report: StepReport) -> None:
        self.steps.append(report)
        if len(self.steps) == self._stop_after:
            raise Interrupted

    def epoch_done(self, epoch: int, figures: Sequence[ValidationFigures], duration_s: float) -> None:
        self.epochs.append(epoch)
        self.figures.append(figures)


def trainer_of(
    start: Start,
    folder: Path,
    *,
    options: FitOptions,
    num_rounds: int = 4,
    class_names: ClassNames | None = None,
    extra: Sequence[TrainingSet] = (),
    run: str = "run",
) -> SharedSpaceTrainer:
    """A trainer over squares, measured on others."""
    held_out = captioned_squares(1, first_seed=1000)
    return SharedSpaceTrainer(
        start,
        [training_set(start, captioned_squares(num_rounds), folder / "maps"), *extra],
        [ValidationSet("held out", held_out, cached(start, held_out, folder / "maps", num_views=1))],
        class_names=class_names,
        options=options,
        run_folder=folder / run,
    )


def _hit_rate(figures: Sequence[ValidationFigures]) -> float:
    found = figures[0].text_to_image
    assert found is not None
    return found.at_1


@pytest.mark.parametrize(("has_kept_branch", "num_frozen_stages"), [(True, 2), (False, 0), (True, 0)])
def test_it_learns_to_find_balls_and_cubes_that_it_never_saw(tmp_path: Path, has_kept_branch: bool, num_frozen_stages: int) -> None:
    start = tiny_start(has_kept_branch=has_kept_branch, num_frozen_stages=num_frozen_stages)
    held_out = captioned_squares(1, first_seed=1000)
    views = cached(start, held_out, tmp_path / "maps", num_views=1)
    before = _hit_rate([validate(start.model, start.text_input, ValidationSet("held out", held_out, views))])
    recorder = Recorder()

    figures = trainer_of(start, tmp_path, options=QUICK, num_rounds=8).fit(recorder)

    assert before <= 17  # chance is one in twelve
    assert _hit_rate(figures) >= 30
    assert figures[0].text_to_image is not None
    assert figures[0].text_to_image.at_5 >= 90
    assert recorder.epochs == [0, 1, 2, 3]
    assert [(report.epoch, report.step, report.num_steps) for report in recorder.steps] == [
        (e, s, 4) for e in (1, 2, 3) for s in (1, 2, 3, 4)
    ]
    assert not start.model.training
    assert recorder.figures[-1] == figures


def test_a_trained_network_saved_and_loaded_finds_the_same(tmp_path: Path) -> None:
    start = tiny_start()
    trainer_of(start, tmp_path, options=QUICK).fit(Recorder())
    held_out = captioned_squares(1, first_seed=1000)
    validation_set = ValidationSet("held out", held_out, cached(start, held_out, tmp_path / "maps", num_views=1))

    save_checkpoint(tmp_path / "out", model=start.model, text_input=start.text_input, notes={})
    loaded = load_checkpoint(tmp_path / "out")

    trained = validate(start.model, start.text_input, validation_set)
    assert _hit_rate([validate(loaded.model, loaded.text_input, validation_set)]) == pytest.approx(_hit_rate([trained]), abs=10)


def test_what_is_frozen_stays_and_the_rest_moves(tmp_path: Path) -> None:
    start = tiny_start()
    before = {name: tensor.clone() for name, tensor in start.model.state_dict().items()}

    trainer_of(start, tmp_path, options=SHORT).fit(Recorder())

    frozen = ("image.stages.0.", "image.stages.1.", "kept.", "text.embeddings.")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, tensor in start.model.state_dict().items():
        if name.startswith(frozen) or name.endswith(statistics):
            torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=1e-6, msg=name)
    moved = {name.split(".")[0] for name, tensor in start.model.state_dict().items() if not torch.allclose(tensor, before[name], atol=1e-5)}
    assert moved == {"image", "text", "image_projection", "kept_projection", "text_projection", "log_logit_scale"}


def _weights(start: Start) -> dict[str, torch.Tensor]:
    return start.model.state_dict()


def _bit_for_bit(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=0, rtol=0, msg=name)


@pytest.mark.parametrize(("has_class_names", "alignment_weight"), [(False, 0.0), (True, 0.0), (True, 1.0)])
def test_a_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(
    tmp_path: Path, has_class_names: bool, alignment_weight: float
) -> None:
    """Stopped four times, also between two tables of names and on an epoch's last step, each time with a new process's objects."""
    options = replace(SHORT, checkpoint_seconds=0.0, alignment_weight=alignment_weight, itm_weight=alignment_weight / 2)
    names = NAMES if has_class_names else None
    undisturbed = with_classifier(tiny_start())
    whole = Recorder()
    trainer_of(undisturbed, tmp_path, options=options, class_names=names, run="whole").fit(whole)

    losses: list[float] = []
    for stop_after in (1, 2, 3, 2):
        recorder = Recorder(stop_after=stop_after)
        torch.manual_seed(len(losses))  # what the process drew before must not matter
        with interrupted():
            trainer_of(with_classifier(tiny_start()), tmp_path, options=options, class_names=names, run="cut").fit(recorder)
        losses += [report.loss for report in recorder.steps[:-1]]  # the step that was stopped was not saved: it is taken again
    continued, last = with_classifier(tiny_start()), Recorder()
    trainer_of(continued, tmp_path, options=options, class_names=names, run="cut").fit(last)

    assert losses + [report.loss for report in last.steps] == [report.loss for report in whole.steps]
    assert len(losses) == 4
    _bit_for_bit(_weights(continued), _weights(undisturbed))


def test_a_run_that_had_ended_gives_its_figures_again(tmp_path: Path) -> None:
    first = tiny_start()
    figures = trainer_of(first, tmp_path, options=SHORT).fit(Recorder())
    again, recorder = tiny_start(), Recorder()

    assert trainer_of(again, tmp_path, options=SHORT).fit(recorder) == figures
    assert (recorder.steps, recorder.projection_losses) == ([], [])
    _bit_for_bit(_weights(again), _weights(first))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.sightline.training.test_shared_space import *

class Killer(FitListener):
    def step_done(self, report):
        if (report.epoch, report.step) == (2, 2):
            os.kill(os.getpid(), signal.SIGKILL)

trainer_of(tiny_start(), Path(sys.argv[1]), options=replace(SHORT, checkpoint_seconds=0.0)).fit(Killer())
"""


def test_a_process_that_was_really_killed_is_continued_bit_for_bit(tmp_path: Path) -> None:
    options = replace(SHORT, checkpoint_seconds=0.0)
    num_threads = torch.get_num_threads()
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert child.returncode == -signal.SIGKILL
    try:
        torch.set_num_threads(1)  # sums in another order would differ in the last bit
        continued, recorder, undisturbed = tiny_start(), Recorder(), tiny_start()
        trainer_of(continued, tmp_path, options=options).fit(recorder)
        trainer_of(undisturbed, tmp_path, options=options, run="whole").fit(Recorder())
    finally:
        torch.set_num_threads(num_threads)

    assert [(report.epoch, report.step) for report in recorder.steps] == [(2, 2), (2, 3), (2, 4)]
    _bit_for_bit(_weights(continued), _weights(undisturbed))


def test_class_names_teach_what_no_caption_says(tmp_path: Path) -> None:
    options = replace(QUICK, class_name_weight=1.0)

    def divergence(class_names: ClassNames | None) -> float:
        """Of the similarities to the names from what the classifier says, in nats a picture, after training."""
        start = with_classifier(tiny_start())
        trainer_of(start, tmp_path, options=options, class_names=class_names, run=f"names-{class_names is not None}").fit(Recorder())
        texts = start.text_input.pad(start.text_input.token_ids([names[0] for names in NAMES.synonyms_by_class]))
        views = training_set(start, captioned_squares(2), tmp_path / "maps").views
        assert views.kept_pooled is not None
        assert start.classifier is not None
        kept = torch.from_numpy(np.asarray(views.kept_pooled)).float()
        with torch.inference_mode():
            names = start.model.embed_tokens(torch.from_numpy(texts.token_ids), torch.from_numpy(texts.attention_mask))
            similarities = start.model.log_logit_scale.exp() * start.model.project_images(None, kept) @ names.T
            wanted = (kept @ start.classifier.weight.T).softmax(dim=1)
            return float((wanted * (wanted.log() - similarities.log_softmax(dim=1))).sum(dim=1).mean())

    taught, untaught = divergence(NAMES), divergence(None)
    assert taught < 0.5 * untaught, (taught, untaught)


def _alignment_hit_rate(trainer: SharedSpaceTrainer, start: Start, folder: Path) -> float:
    """Percent of held out captions whose own picture has the highest alignment."""
    assert trainer.alignment is not None
    held_out = captioned_squares(1, first_seed=1000)
    views = cached(start, held_out, folder / "maps", num_views=1)
    tokens = start.text_input.pad(start.text_input.token_ids([picture.captions[0] for picture in held_out]))
    mask = torch.from_numpy(tokens.attention_mask)
    with torch.inference_mode():
        stem_maps = torch.from_numpy(np.asarray(views.stem_maps)).float()
        assert start.model.kept is not None
        tuned = start.model.tuned_maps(stem_maps)
        image_tokens = gridded_tokens([*tuned, start.model.kept(stem_maps)], last=tuned[-1])
        hidden = start.model.text_hidden_states(torch.from_numpy(tokens.token_ids), mask)
        alignment = trainer.alignment(hidden, mask, trainer.alignment.patches(image_tokens))
    return 100 * float((alignment.argmax(dim=1) == torch.arange(len(held_out))).float().mean())


@pytest.mark.parametrize("itm_weight", [0.0, 0.5])
def test_alignment_learns_beside_the_shared_space(tmp_path: Path, itm_weight: float) -> None:
    rates = []
    for epochs in (1, 8):
        start = tiny_start()
        options = replace(QUICK, epochs=epochs, alignment_weight=1.0, alignment_learning_rate=1e-2 if epochs > 1 else 1e-9)
        options = replace(options, itm_weight=itm_weight)
        trainer = trainer_of(start, tmp_path, options=options, num_rounds=8, run=f"run-{epochs}")
        assert _hit_rate(trainer.fit(Recorder())) >= 30
        rates.append(_alignment_hit_rate(trainer, start, tmp_path))

    assert rates[0] <= 17  # chance is one in twelve
    assert rates[1] >= 30


def test_projections_are_fitted_once_more_at_the_end_and_a_run_that_had_ended_repeats_it(tmp_path: Path) -> None:
    once, more, again, recorder = tiny_start(), tiny_start(), tiny_start(), Recorder()
    trainer_of(once, tmp_path, options=SHORT, run="once").fit(Recorder())
    options = replace(SHORT, last_projection_epochs=2, last_learning_rate=1e-3)

    trainer_of(more, tmp_path, options=options, run="more").fit(recorder)
    trainer_of(again, tmp_path, options=options, run="more").fit(Recorder())

    assert len(recorder.projection_losses) == 2
    assert recorder.epochs == [0, 1, 2, 2]
    changed = {name for name, tensor in _weights(more).items() if not torch.equal(tensor, _weights(once)[name])}
    assert changed
    assert all("projection" in name or name == "log_logit_scale" for name in changed)
    _bit_for_bit(_weights(more), _weights(again))


def test_a_batch_of_pictures_without_captions_is_no_failure(tmp_path: Path) -> None:
    """Pictures of other subjects join for their class names alone; a batch may happen to hold no others."""
    start = with_classifier(tiny_start())
    silent = training_set(start, captioned_squares(2, first_seed=500, has_captions=False), tmp_path / "maps")
    options = replace(SHORT, epochs=1, batch_size=2)
    recorder = Recorder()

    trainer_of(start, tmp_path, options=options, num_rounds=1, class_names=NAMES, extra=[silent]).fit(recorder)

    assert len(recorder.steps) == 18
    assert all(np.isfinite(report.loss) for report in recorder.steps)


@pytest.mark.parametrize("phase", ["projections", "all"])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_state(tmp_path: Path, phase: str) -> None:
    start = tiny_start()
    options = replace(SHORT, projection_epochs=1 if phase == "projections" else 0)
    trainer = trainer_of(start, tmp_path, options=options)
    with torch.no_grad():
        start.model.text_projection.out.bias[0] = torch.nan

    with pytest.raises(InvalidTraining, match="the loss is no number at step 1; lower the learning rates"):
        trainer.fit(Recorder())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(tmp_path: Path) -> None:
    start = tiny_start()
    trainer = trainer_of(start, tmp_path, options=replace(SHORT, projection_epochs=0))
    start.model.text_projection.out.weight.register_hook(lambda gradient: gradient * torch.nan)  # type: ignore[no-untyped-call]

    with pytest.raises(InvalidTraining, match="no number at step 1"):
        trainer.fit(Recorder())
    assert all(bool(tensor.isfinite().all()) for tensor in _weights(start).values())


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    trainer_of(tiny_start(), tmp_path, options=SHORT).fit(Recorder())

    with pytest.raises(InvalidTraining, match="delete that folder to begin again"):
        trainer_of(tiny_start(has_kept_branch=False), tmp_path, options=SHORT).fit(Recorder())


def test_a_state_without_a_table_of_names_goes_on_with_a_new_one(tmp_path: Path) -> None:
    start = with_classifier(tiny_start())
    options = replace(SHORT, checkpoint_seconds=0.0)
    with interrupted():
        trainer_of(start, tmp_path, options=options, class_names=NAMES).fit(Recorder(stop_after=3))
    path = tmp_path / "run" / "state" / "state.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if name != "name_table"}, path)

    figures = trainer_of(with_classifier(tiny_start()), tmp_path, options=options, class_names=NAMES).fit(Recorder())

    assert figures[0].text_to_image is not None


def test_a_batch_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTraining, match="at least 2 pictures"):
        trainer_of(tiny_start(), tmp_path, options=replace(SHORT, batch_size=1))


@pytest.mark.parametrize("has_kept_branch", [True, False])
def test_fitting_projections_lowers_the_loss_and_touches_nothing_else(tmp_path: Path, has_kept_branch: bool) -> None:
    losses = []
    for epochs in (1, 25):
        start = with_classifier(tiny_start(has_kept_branch=has_kept_branch))
        before = {name: tensor.clone() for name, tensor in _weights(start).items()}
        losses.append(
            ProjectionFit(
                start.model,
                start.text_input,
                [training_set(start, captioned_squares(2), tmp_path)],
                classifier=start.classifier,
                class_names=NAMES,
                options=replace(QUICK, projection_epochs=epochs),
            ).run()
        )
        changed = {name for name, tensor in _weights(start).items() if not torch.equal(tensor, before[name])}
        assert all("projection" in name or name == "log_logit_scale" for name in changed)
        assert not start.model.training

    assert losses[1] < losses[0] - 0.2


def test_fitting_projections_twice_gives_the_same(tmp_path: Path) -> None:
    starts = [tiny_start(), tiny_start()]
    for number, start in enumerate(starts):
        torch.manual_seed(number)
        sets = [training_set(start, captioned_squares(2), tmp_path)]
        ProjectionFit(start.model, start.text_input, sets, classifier=None, class_names=None, options=SHORT).run()

    _bit_for_bit(_weights(starts[0]), _weights(starts[1]))
