"""The operator's log lines: JSON that a collector can take apart, whatever is logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest

from cai_operator import log_format


@pytest.fixture
def logs() -> Iterator[None]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    names = (None, *log_format.QUIET)
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("logs")
class TestJson:
    def test_a_line_is_one_object_with_the_pipeline_it_is_about(self, capsys):
        log_format.set_up("json", "info")
        logging.getLogger("cai_operator").warning(
            "%s: %s", "sft", 'died\nof "grief" – ü', extra={"pipeline": "team/tiny", "reason": "Failed", "other": 1}
        )
        (line,) = capsys.readouterr().err.splitlines()
        document = json.loads(line)
        assert datetime.fromisoformat(document.pop("time")).tzinfo is not None
        assert document == {
            "level": "warning",
            "logger": "cai_operator",
            "message": 'sft: died\nof "grief" – ü',
            "pipeline": "team/tiny",
            "reason": "Failed",
        }

    def test_an_exception_stays_on_its_line(self, capsys):
        log_format.set_up("json", "info")
        try:
            raise ValueError("what\nnow")
        except ValueError as problem:
            logging.getLogger("cai_operator").exception("broken: %s", problem)
        (line,) = capsys.readouterr().err.splitlines()
        document = json.loads(line)
        assert document["exception"].startswith("Traceback")
        assert document["exception"].endswith("ValueError: what\nnow")


@pytest.mark.usefixtures("logs")
class TestSetUp:
    def test_text_is_for_people(self, capsys):
        log_format.set_up("text", "info")
        logging.getLogger("cai_operator").info("team/tiny: sft started", extra={"pipeline": "team/tiny"})
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(" INFO    team/tiny: sft started")
        datetime.fromisoformat(line.split()[0])

    def test_only_what_is_of_the_level_is_written(self, capsys):
        log_format.set_up("text", "warning")
        logging.getLogger("cai_operator").info("never mind")
        logging.getLogger("cai_operator").error("mind")
        assert "never" not in (told := capsys.readouterr().err)
        assert "mind" in told

    def test_libraries_are_quiet_until_somebody_looks_for_trouble(self, capsys):
        log_format.set_up("text", "info")
        logging.getLogger("httpx").info("HTTP Request: GET https://...")
        logging.getLogger("kopf.activities").info("Initial authentication has finished.")
        assert capsys.readouterr().err == ""
        logging.getLogger("kopf.activities").warning("no more")
        assert "no more" in capsys.readouterr().err

    def test_a_level_for_trouble_shows_them(self, capsys):
        log_format.set_up("text", "debug")
        logging.getLogger("kopf.activities").debug("details")
        assert "details" in capsys.readouterr().err

    def test_setting_up_twice_does_not_write_twice(self, capsys):
        log_format.set_up("text", "info")
        log_format.set_up("json", "info")
        logging.getLogger("cai_operator").info("once")
        assert len(capsys.readouterr().err.splitlines()) == 1
