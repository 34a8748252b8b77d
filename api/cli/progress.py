"""How far indexing is: a bar on a terminal, a plain line every ten seconds elsewhere; both on standard error."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from api.cli.console import PipeConsole, stderr_console
from indexer.progress import PlannedWork, Progress, SkippedInput
from indexer.wording import counted

SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """A progress bar; log lines that are written meanwhile appear above it."""

    def __init__(self, rich_progress: RichProgress) -> None:
        self.num_committed = 0
        self._rich_progress = rich_progress
        self._task = rich_progress.add_task("looking through the source", total=None, note="")

    def surveyed(self, num_inputs: int) -> None:
        """Shows how many inputs were found; how many there are is not known yet."""
        self._rich_progress.update(self._task, completed=num_inputs)

    def planned(self, work: PlannedWork) -> None:
        """Starts the bar, or takes it away where nothing is to do."""
        self._rich_progress.update(
            self._task, description="indexing", completed=0, total=work.num_to_do, note="", visible=work.num_to_do > 0
        )

    def advanced(self, progress: Progress) -> None:
        """Moves the bar."""
        self._rich_progress.update(self._task, completed=progress.num_done, note=describe_rate(progress))

    def skipped(self, skipped: SkippedInput) -> None:
        """Nothing: the count is in the next advance, the causes in the report and the ledger."""

    def committed(self, num_items: int) -> None:
        """Counts."""
        self.num_committed += num_items


class Lines:
    """Progress where there is no terminal, such as a log file."""

    def __init__(self, console: PipeConsole) -> None:
        self.num_committed = 0
        self._console = console
        self._last_line_at = time.monotonic()

    def surveyed(self, num_inputs: int) -> None:
        """A line now and then."""
        self._say_if_due(f"looking through the source: {counted(num_inputs, 'input')} so far")

    def planned(self, work: PlannedWork) -> None:
        """One line, always."""
        self._say(f"{work.num_to_do:,} of {counted(work.num_inputs, 'input')} to read, {work.num_unchanged:,} unchanged")

    def advanced(self, progress: Progress) -> None:
        """A line now and then."""
        share = progress.num_done / progress.num_to_do if progress.num_to_do else 1.0
        line = f"{progress.num_done:,} of {progress.num_to_do:,} ({share:.0%}), {describe_rate(progress)}"
        self._say_if_due(line)

    def skipped(self, skipped: SkippedInput) -> None:
        """Nothing: the count is in the next line, the causes in the report and the ledger."""

    def committed(self, num_items: int) -> None:
        """Counts."""
        self.num_committed += num_items

    def _say_if_due(self, line: str) -> None:
        if time.monotonic() - self._last_line_at >= SECONDS_BETWEEN_LINES:
            self._say(line)

    def _say(self, line: str) -> None:
        self._last_line_at = time.monotonic()
        self._console.print(line, soft_wrap=True)


@contextmanager
def new_progress() -> Iterator[Bar | Lines]:
    """The one that suits standard error."""
    console = stderr_console()
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with RichProgress(*columns, console=console, transient=True) as rich_progress:
        yield Bar(rich_progress)


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Told what is being done and how much of how much of it is done, shows it as a bar or as a line now and then."""
    console = stderr_console()
    if not console.is_terminal:
        last_line_at = time.monotonic()

        def say(what: str, num_done: int, num_all: int) -> None:
            nonlocal last_line_at
            if time.monotonic() - last_line_at >= SECONDS_BETWEEN_LINES:
                last_line_at = time.monotonic()
                console.print(f"{what}: {num_done:,} of {num_all:,}", soft_wrap=True)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, transient=True) as rich_progress:
        task = rich_progress.add_task("looking through the source", total=None)
        yield lambda what, num_done, num_all: rich_progress.update(task, description=what, completed=num_done, total=num_all)


def describe_rate(progress: Progress) -> str:
    """`85 a second, 3:40 left, 2 skipped`."""
    remaining = "" if progress.remaining_s is None else f"{describe_duration(progress.remaining_s)} left, "
    return f"{progress.inputs_per_s:,.0f} a second, {remaining}{progress.num_skipped:,} skipped"


def describe_duration(duration_s: float) -> str:
    """Seconds as `0:07`, `3:40` or `1:02:03`."""
    minutes, seconds = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
