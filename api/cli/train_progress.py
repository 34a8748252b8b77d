"""How far training is: a bar a phase on a terminal, plain lines elsewhere; both on standard error."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from api.cli.console import stderr_console
from api.cli.progress import SECONDS_BETWEEN_LINES, describe_duration
from indexer.wording import counted
from sightline.training.recipe import TrainingListener
from sightline.training.shared_space import StepReport
from sightline.training.validation import ValidationFigures


class TrainingLines(TrainingListener):
    """A line an epoch, and one now and then between."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._last_line_at = time.monotonic()

    def caching(self, name: str, num_done: int, num_pictures: int) -> None:
        """A line now and then, and at the end."""
        self._say_if_due(f"{name}: {num_done:,} of {counted(num_pictures, 'picture')} read", is_last=num_done == num_pictures)

    def projections_fitted(self, loss: float, duration_s: float) -> None:
        """A line."""
        self._say(f"projections fitted in {describe_duration(duration_s)}, loss {loss:.3f}")

    def step_done(self, report: StepReport) -> None:
        """A line now and then."""
        self._say_if_due(f"epoch {report.epoch} of {report.num_epochs}, step {report.step} of {report.num_steps}, loss {report.loss:.3f}")

    def epoch_done(self, epoch: int, figures: Sequence[ValidationFigures], duration_s: float) -> None:
        """A line, and one for each validation set."""
        self._say(f"epoch {epoch} in {describe_duration(duration_s)}" if epoch else "before the first epoch")
        for one in figures:
            self._say(f"  {one}")

    def _say_if_due(self, line: str, *, is_last: bool = False) -> None:
        if is_last or time.monotonic() - self._last_line_at >= SECONDS_BETWEEN_LINES:
            self._say(line)

    def _say(self, line: str) -> None:
        self._last_line_at = time.monotonic()
        self._console.print(line, soft_wrap=True)


class TrainingBars(TrainingListener):
    """A bar for what is going on now; finished epochs stay as lines above it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("reading pictures", total=None, note="")

    def caching(self, name: str, num_done: int, num_pictures: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, description=f"reading {name}", completed=num_done, total=num_pictures, note="")

    def projections_fitted(self, loss: float, duration_s: float) -> None:
        """A line."""
        self._progress.console.print(f"projections fitted in {describe_duration(duration_s)}, loss {loss:.3f}")

    def step_done(self, report: StepReport) -> None:
        """Moves the bar."""
        description = f"epoch {report.epoch} of {report.num_epochs}"
        note = f"loss {report.loss:.3f}"
        self._progress.update(self._task, description=description, completed=report.step, total=report.num_steps, note=note)

    def epoch_done(self, epoch: int, figures: Sequence[ValidationFigures], duration_s: float) -> None:
        """A line for each validation set."""
        self._progress.console.print(f"epoch {epoch} in {describe_duration(duration_s)}" if epoch else "before the first epoch")
        for one in figures:
            self._progress.console.print(f"  {one}")


def training_columns() -> tuple[ProgressColumn, ...]:
    """Of a bar: what is going on, how far it is, and a note."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )


@contextmanager
def new_training_listener() -> Iterator[TrainingListener]:
    """The one that suits standard error."""
    console = stderr_console()
    if not console.is_terminal:
        yield TrainingLines()
        return
    with Progress(*training_columns(), console=console, transient=True) as progress:
        yield TrainingBars(progress)
