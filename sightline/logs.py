"""Where log lines go: one handler for all of our loggers, on the standard error that is current when a line is written.

Modules log with `logging.getLogger(__name__)`; only a way in (the command line, a service) calls `configure_logging`.
"""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that a line is about, where there is one; a thread that works for a request has it too."""

FIELDS = "fields"
"""`extra={FIELDS: {...}}` gives a JSON line fields of its own; in text they are left out, so that the message must say what matters."""

LOGGER_ROOTS = ("sightline", "indexer", "search", "api", "migrations")
"""The top-level packages, whose names begin the name of every logger of ours."""

LINE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SENTENCE_FORMAT = "sightline: %(message)s"
"""For a person who asked for no log: a warning reads like every other sentence of the command line."""


class CurrentStderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is now, so that lines appear above a progress bar that has redirected it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.log_format: LogFormat = "text"

    @property
    def stream(self) -> TextIO:
        """The standard error of this moment."""
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        raise AttributeError("the stream is always sys.stderr")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (of_request := request_id.get()) is not None:
            line["request_id"] = of_request
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: LogLevel, *, log_format: LogFormat | None = None) -> None:
    """Send lines of our loggers at `level` and above to standard error; calling it again changes the level, and the format if given.

    At `info` and `debug` a line of text has time, level and name; above it is a sentence.
    """
    for root in LOGGER_ROOTS:
        logger = logging.getLogger(root)
        logger.setLevel(level.upper())
        if not any(isinstance(handler, CurrentStderrHandler) for handler in logger.handlers):
            logger.addHandler(CurrentStderrHandler())
        for handler in logger.handlers:
            if isinstance(handler, CurrentStderrHandler):
                handler.log_format = log_format or handler.log_format
                handler.setFormatter(_formatter(level, handler.log_format))


def configure_format(log_format: LogFormat) -> None:
    """Have lines in this format from now on, at the level that is set."""
    configure_logging(current_level(), log_format=log_format)


def current_level() -> LogLevel:
    """The level of our loggers."""
    effective = logging.getLogger(LOGGER_ROOTS[0]).getEffectiveLevel()
    levels: tuple[LogLevel, ...] = ("debug", "info", "warning")
    return next((level for level in levels if effective <= getattr(logging, level.upper())), "error")


def _formatter(level: LogLevel, log_format: LogFormat) -> logging.Formatter:
    if log_format == "json":
        return JsonFormatter()
    return logging.Formatter(LINE_FORMAT if level in ("debug", "info") else SENTENCE_FORMAT)
