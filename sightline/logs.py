"""Where log lines go: one handler for all of our loggers, on the standard error that is current when a line is written.

Modules log with `logging.getLogger(__name__)`; only a way in (the command line, a service) calls `configure_logging`.
"""

import logging
import sys
from typing import Literal, TextIO

LogLevel = Literal["debug", "info", "warning", "error"]

LOGGER_ROOTS = ("sightline", "indexer", "search", "api", "migrations")
"""The top-level packages, whose names begin the name of every logger of ours."""

LINE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SENTENCE_FORMAT = "sightline: %(message)s"
"""For a person who asked for no log: a warning reads like every other sentence of the command line."""


class CurrentStderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is now, so that lines appear above a progress bar that has redirected it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The standard error of this moment."""
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        raise AttributeError("the stream is always sys.stderr")


def configure_logging(level: LogLevel) -> None:
    """Send lines of our loggers at `level` and above to standard error; calling it again changes the level and no more.

    At `info` and `debug` a line has time, level and name; above it is a sentence.
    """
    formatter = logging.Formatter(LINE_FORMAT if level in ("debug", "info") else SENTENCE_FORMAT)
    for root in LOGGER_ROOTS:
        logger = logging.getLogger(root)
        logger.setLevel(level.upper())
        if not any(isinstance(handler, CurrentStderrHandler) for handler in logger.handlers):
            logger.addHandler(CurrentStderrHandler())
        for handler in logger.handlers:
            if isinstance(handler, CurrentStderrHandler):
                handler.setFormatter(formatter)
