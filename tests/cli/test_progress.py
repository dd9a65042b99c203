"""Reports of a job without a terminal."""

import warnings

import pytest

from tlcli.cli.progress import Terminal
from tlcli.reporter import Reporter
from tlcli.text import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (40.4, "40 s"),
        (89, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_duration(seconds, text):
    assert format_duration(seconds) == text


def test_from_python_only_warnings_are_passed_on(capsys):
    reporter = Reporter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reporter.note("a")
        reporter.progress("b", 1, 2, loss=0.5)
        reporter.warn("c")
    assert [str(w.message) for w in caught] == ["c"]
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_a_finished_task_is_a_line_in_its_own_unit(capsys):
    with Terminal() as terminal:
        for task, total, unit in (("a", 3, "images"), ("b", 2, "steps"), ("c", 1_460_000, "bytes")):
            terminal.progress(task, 0, total, unit)
            terminal.progress(task, total, total, unit)
    lines = [line.partition(" in ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["a: 3 images", "b: 2 steps", "c: 1.5 MB"]
