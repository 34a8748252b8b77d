"""What a command may raise, as one line on standard error and an exit code.

The only place of the command line that catches everything: commands raise, this decides what a person sees.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from typer.exceptions import Abort, Exit, TyperException

from api.exit_codes import ExitCode, exit_code_of
from sightline.errors import SightlineError

DEBUG_VARIABLE = "SIGHTLINE_DEBUG"

INTERRUPTED = "stopped; everything that was committed is kept"


def run_guarded(command: Callable[[], object]) -> int:
    """0, or the exit code for what the command raised.

    A domain error is one line; Ctrl-C is one line that says what is kept (the interrupt's own message, when it has one); a pipe
    whose reader went away ends silently; anything else is a bug and says how to see the traceback, which `SIGHTLINE_DEBUG=1`
    prints in every case. What typer raises for itself, usage errors and planned exits, passes through.
    """
    try:
        command()
        sys.stdout.flush()
    except (Exit, TyperException):
        raise
    except BrokenPipeError:
        forget_stdout()
        return ExitCode.BROKEN_PIPE
    except SightlineError as error:
        return _stop(str(error), code=exit_code_of(error))
    except (KeyboardInterrupt, Abort) as interrupt:
        return _stop(str(interrupt) or INTERRUPTED, code=ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # the outermost loop: nobody above could say it better
        sentence = str(error).partition("\n")[0] or "no message"
        hint = f"this is a bug; {DEBUG_VARIABLE}=1 shows the traceback to report it with"
        return _stop(f"unexpected {type(error).__name__}: {sentence} ({hint})", code=ExitCode.UNEXPECTED)
    return ExitCode.OK


def complain(sentence: str) -> None:
    """One line on standard error, whatever line breaks the sentence has."""
    sys.stderr.write(f"sightline: {' '.join(sentence.split())}\n")


def forget_stdout() -> None:
    """Point standard output at nothing, so that the interpreter's flush at exit does not meet the broken pipe again."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _stop(sentence: str, *, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        traceback.print_exc()
    complain(sentence)
    return code
