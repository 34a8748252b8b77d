"""`python -m api.http.jobs.child`: the process of one job, which may be killed at any moment and begun again.

Its order comes as a line on standard input, which stays open: its end is the end of the service, and then this process stops as it does
when it is told to, by SIGINT, after the next commit. What it tells goes to standard output, a JSON object a line; anything that a
library prints goes to standard error.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:  # what takes long to import is imported once this process is ready to be told to stop
    from api.http.jobs.reporting import Reporter
    from api.http.jobs.specs import Order
    from sightline.types import JsonObject

logger = logging.getLogger(__name__)

_NICENESS = 10
"""Searches come first: on two cores an indexing process at equal priority would take every second millisecond from them."""

_TRY_AGAIN_S = 0.5
_LAST_COMMIT_S = 60.0
"""A service that is gone waits for nothing; a commit takes seconds, and what takes longer is done again by the next process."""


def main() -> int:
    """Does the job; the exit code is for who looks at processes, the service reads the pipe."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until there is somebody to tell that it was taken
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background starts its processes deaf to it
    os.nice(_NICENESS)
    pipe = _private_stdout()
    from api.http.jobs.reporting import Reporter

    _report(Reporter(pipe))
    return 0


def _report(reporter: "Reporter") -> None:
    from api.http.wording import sentence_of
    from sightline.errors import SightlineError

    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        _run(reporter)
    except KeyboardInterrupt:
        reporter.interrupted()
    except SightlineError as error:
        reporter.failed(sentence_of(error))
    except Exception as error:  # the outermost loop of a process
        logger.exception("a job failed")
        reporter.failed(f"unexpected {type(error).__name__}: {error} (this is a bug; the log of the service has the traceback)")


def _run(reporter: "Reporter") -> None:
    from api.http.jobs.specs import Order
    from sightline.logs import configure_logging

    configure_logging("warning")
    order = Order.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_service, name="lifeline", daemon=True).start()
    reporter.note(stage="starting")
    reporter.done(_patiently(lambda: _do(order, reporter), reporter))


def _private_stdout() -> IO[str]:
    """The pipe to the service, out of reach of what prints: descriptor 1 is standard error from here on."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _end_with_service() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_LAST_COMMIT_S)
    os._exit(1)


def _patiently(work: "Callable[[], JsonObject]", reporter: "Reporter") -> "JsonObject":
    """Try until nobody else writes, and the database is there."""
    from api.http.wording import sentence_of
    from sightline.errors import DatabaseUnavailable, StoreBusy

    while True:
        try:
            return work()
        except (StoreBusy, DatabaseUnavailable) as error:
            reporter.note(stage="waiting", waiting_for=sentence_of(error))
            time.sleep(_TRY_AGAIN_S)


def _do(order: "Order", reporter: "Reporter") -> "JsonObject":
    from api.http.jobs.doing import do_job
    from api.library import open_store
    from sightline.settings import Settings

    settings = Settings.model_validate({**order.settings, "decode_workers": 1})
    with open_store(Path(order.store), encoder=order.encoder, settings=settings, create=False) as sightline:
        return do_job(sightline, order, reporter)


if __name__ == "__main__":
    sys.exit(main())
