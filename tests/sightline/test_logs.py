"""Log lines of ours go to standard error as it is when they are written, once each."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from sightline.logs import FIELDS, LOGGER_ROOTS, LogLevel, configure_format, configure_logging, current_level, request_id


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    configure_format("text")  # of the process: a service that another test ran may have chosen JSON
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in LOGGER_ROOTS}
    yield
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers
    configure_format("text")


def test_each_line_comes_once_however_often_logging_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", first := io.StringIO())
    configure_logging("info")
    configure_logging("info")
    logging.getLogger("search.engine").info("answered in %d ms", 3)
    assert first.getvalue().count("INFO search.engine: answered in 3 ms\n") == 1


def test_a_stderr_that_was_redirected_later_gets_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("warning")
    monkeypatch.setattr(sys, "stderr", redirected := io.StringIO())
    logging.getLogger("indexer.pipeline").warning("slow disk")
    assert redirected.getvalue() == "sightline: slow disk\n"


def test_a_warning_is_a_log_line_where_a_log_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("warning")
    configure_logging("debug")
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    logging.getLogger("indexer.pipeline").warning("slow disk")
    assert log.getvalue().endswith(" WARNING indexer.pipeline: slow disk\n")


def test_lines_below_the_level_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", quiet := io.StringIO())
    configure_logging("warning")
    logging.getLogger("sightline.storage.store").info("opened")
    assert quiet.getvalue() == ""


def test_a_json_line_is_one_object_with_the_request_and_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("info")
    configure_format("json")
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    token = request_id.set("abc")
    logging.getLogger("api.http.access").info("GET %s", '/\n"x', extra={FIELDS: {"status": 200}})
    request_id.reset(token)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("search.engine").exception("failed")

    first, second = (json.loads(line) for line in log.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {"level": "info", "logger": "api.http.access", "message": 'GET /\n"x', "request_id": "abc", "status": 200}
    assert second["exception"].endswith("ValueError: two\nlines")
    assert "request_id" not in second


def test_a_change_of_the_level_keeps_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("warning", log_format="json")
    configure_logging("debug")
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    logging.getLogger("search.engine").debug("hello")
    assert json.loads(log.getvalue())["message"] == "hello"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_can_be_asked_for(level: LogLevel) -> None:
    configure_logging(level)
    assert current_level() == level
