"""The `sightline` command: what there is, and how it starts and ends.

Modules of commands are imported here and must be light: `sightline --help` answers before a person notices, so that settings, SQL,
FAISS and networks are imported inside the commands that need them.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from api.cli import (
    collections,
    evaluating,
    explaining,
    history,
    hubness,
    indexing,
    keys,
    maintenance,
    searching,
    serving,
    train,
    train_fusion,
)
from api.cli.guard import forget_stdout, run_guarded
from api.cli.options import StoreOption
from api.cli.session import GlobalOptions
from api.exit_codes import ExitCode
from sightline import __version__

EPILOG = "Settings are environment variables SIGHTLINE_*; exit codes are listed in docs/exit-codes.md."


class GuardedGroup(TyperGroup):
    """Commands whose errors become one line and an exit code."""

    def invoke(self, ctx: Any) -> None:
        """Run the command that was named; raises `typer.Exit` with its exit code."""
        raise typer.Exit(run_guarded(lambda: super(GuardedGroup, self).invoke(ctx)))


class TrainGroup(TyperGroup):
    """`sightline train SOURCE...` is `sightline train encoder SOURCE...`: what most people train, and what it was called first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the command's name before arguments that begin with no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["encoder", *args]
        return super().parse_args(ctx, args)


training = typer.Typer(cls=TrainGroup, help="Train an encoder, or a fusion encoder on top of one.", no_args_is_help=True)
training.command("encoder")(train.train)
training.command("fusion")(train_fusion.train_fusion)

app = typer.Typer(
    cls=GuardedGroup,
    name="sightline",
    help="Find photographs by describing them: index a folder, then search it by words or by another picture.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"sightline {__version__}")
        raise typer.Exit


@app.callback()
def _before_every_command(
    context: typer.Context,
    *,
    store: StoreOption = None,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Log what happens; twice for every detail.")] = 0,
    version: Annotated[  # noqa: ARG001  # its callback answers it
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    from sightline.logs import configure_logging

    configure_logging(("warning", "info", "debug")[min(verbose, 2)])
    context.obj = GlobalOptions(store=store)


app.command("index")(indexing.index)
app.command("search")(searching.search)
app.command("explain")(explaining.explain)
app.command("match")(explaining.match)
app.command("evaluate")(evaluating.evaluate)
app.command("serve")(serving.serve)
app.add_typer(keys.app, name="keys")
app.add_typer(collections.app, name="collections")
app.command("hubness")(hubness.hubness)
app.command("patches")(maintenance.patches)
app.command("runs")(history.runs)
app.command("ledger")(history.ledger)
app.command("delete")(maintenance.delete)
app.command("verify")(maintenance.verify)
app.command("compact")(maintenance.compact)
app.add_typer(training, name="train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (those of the process when None) and return its exit code; never raises."""
    try:
        typer.main.get_command(app)(args=arguments, prog_name="sightline")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else ExitCode.OK
    else:
        code = ExitCode.OK
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()
        return ExitCode.BROKEN_PIPE
    return code
