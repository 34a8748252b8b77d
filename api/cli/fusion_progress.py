"""How far the training of a fusion encoder is: a bar on a terminal, plain lines elsewhere; both on standard error."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress

from api.cli.console import stderr_console
from api.cli.progress import SECONDS_BETWEEN_LINES, describe_duration
from api.cli.train_progress import training_columns
from sightline.training.fusion_fit import FusionStep
from sightline.training.fusion_recipe import FusionTrainingListener


class FusionLines(FusionTrainingListener):
    """A line an epoch, and one now and then between."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._last_line_at = time.monotonic()

    def caching(self, name: str, num_done: int, num_pictures: int) -> None:
        """A line now and then, and at the end."""
        if num_done == num_pictures or self._is_due():
            self._say(f"{name}: {num_done:,} of {num_pictures:,} pictures read")

    def fusion_step_done(self, report: FusionStep) -> None:
        """A line now and then."""
        if self._is_due():
            step = f"step {report.step} of {report.num_steps}, loss {report.loss:.3f}"
            self._say(f"{report.phase}, epoch {report.epoch} of {report.num_epochs}, {step}")

    def fusion_epoch_done(self, phase: str, epoch: int, loss: float, duration_s: float) -> None:
        """A line."""
        self._say(f"{phase}, epoch {epoch} in {describe_duration(duration_s)}, loss {loss:.3f}")

    def measuring(self, name: str) -> None:
        """A line."""
        self._say(f"measuring on {name}")

    def _is_due(self) -> bool:
        return time.monotonic() - self._last_line_at >= SECONDS_BETWEEN_LINES

    def _say(self, line: str) -> None:
        self._last_line_at = time.monotonic()
        self._console.print(line, soft_wrap=True)


class FusionBars(FusionTrainingListener):
    """A bar for what is going on now; finished epochs stay as lines above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("reading pictures", total=None, note="")

    def caching(self, name: str, num_done: int, num_pictures: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, description=f"reading {name}", completed=num_done, total=num_pictures, note="")

    def fusion_step_done(self, report: FusionStep) -> None:
        """Moves the bar."""
        description = f"{report.phase}, epoch {report.epoch} of {report.num_epochs}"
        self._progress.update(
            self._task, description=description, completed=report.step, total=report.num_steps, note=f"loss {report.loss:.3f}"
        )

    def fusion_epoch_done(self, phase: str, epoch: int, loss: float, duration_s: float) -> None:
        """A line."""
        self._progress.console.print(f"{phase}, epoch {epoch} in {describe_duration(duration_s)}, loss {loss:.3f}")

    def measuring(self, name: str) -> None:
        """Names what is measured."""
        self._progress.update(self._task, description=f"measuring on {name}", completed=0, total=None, note="")


@contextmanager
def new_fusion_listener() -> Iterator[FusionTrainingListener]:
    """The one that suits standard error."""
    console = stderr_console()
    if not console.is_terminal:
        yield FusionLines()
        return
    with Progress(*training_columns(), console=console, transient=True) as progress:
        yield FusionBars(progress)
