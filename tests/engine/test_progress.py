"""The line under the text that is being written: it shows how far a sweep has come, and leaves the text alone."""

import os
import pty
import subprocess
import sys

import pyte
import pytest
from conftest import REPOSITORY

from tpi_mpi.common.terminal import StatusLine
from tpi_mpi.engine import progress
from tpi_mpi.engine.progress import SweepProgress

BLOCKS = {"a": 2 * 1024**2, "b": 6 * 1024**2}


class Screen:
    """A small terminal, as an emulator sees it."""

    def __init__(self, monkeypatch, lines: int = 4):
        self._screen = pyte.Screen(30, lines)
        self._stream = pyte.Stream(self._screen)
        monkeypatch.setattr("sys.stderr", self)

    def write(self, text: str) -> None:
        self._stream.feed(text.replace("\n", "\r\n"))  # as a terminal's driver does

    def flush(self) -> None:
        pass

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]


def test_the_line_is_under_the_text_and_goes_without_a_trace(monkeypatch):
    screen = Screen(monkeypatch)
    line = StatusLine(30)
    screen.write("The slab is")
    line.show("1 of 2 blocks")
    line.show("2 of 2 blocks")
    assert screen.lines == ["The slab is", "2 of 2 blocks", "", ""]
    line.clear()
    screen.write(" a file.")
    assert screen.lines == ["The slab is a file.", "", "", ""]


def test_it_works_at_the_bottom_of_the_screen_too(monkeypatch):
    screen = Screen(monkeypatch, lines=3)
    line = StatusLine(30)
    screen.write("one\ntwo\nthe slab")
    line.show("x" * 99)
    assert screen.lines == ["two", "the slab", "x" * 29]
    line.clear()
    screen.write(" is")
    assert screen.lines == ["two", "the slab is", ""]


def test_nothing_is_written_where_nothing_was_shown(monkeypatch):
    screen = Screen(monkeypatch)
    StatusLine(30).clear()
    assert screen.lines == [""] * 4


@pytest.fixture
def impatient(monkeypatch):
    for name in ("_PATIENCE", "_MOVING", "_LOGGED"):
        monkeypatch.setattr(progress, name, -1.0)


def follow(fetched: list[int], shown: bool = True) -> None:
    sweeps = SweepProgress(BLOCKS, lambda: fetched[0], shown)
    with sweeps.sweep():
        fetched[0] += 2 * 1024**2
        sweeps.block("a")
        sweeps.block("b")


def test_a_log_gets_lines(monkeypatch, impatient, capsys):
    monkeypatch.setattr(progress, "terminal_width", lambda: None)
    follow([5 * 1024**2])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("tpi_mpi: 1 of 2 blocks, 2.00 MiB read at ")
    assert second.startswith("tpi_mpi: 2 of 2 blocks, 2.00 MiB read at ")
    assert second.endswith(" 0 s left for this token")


def test_a_terminal_gets_a_line_that_is_gone_when_the_token_comes(monkeypatch, impatient):
    monkeypatch.setattr(progress, "terminal_width", lambda: 30)
    screen = Screen(monkeypatch)
    screen.write("The")
    follow([0])
    assert screen.lines == ["The", "", "", ""]


def test_a_quick_sweep_shows_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "terminal_width", lambda: None)
    monkeypatch.setattr(progress, "_LOGGED", -1.0)
    follow([0])
    assert capsys.readouterr().err == ""


def test_nothing_is_shown_beside_the_progress_of_many_prompts(monkeypatch, impatient, capsys):
    monkeypatch.setattr(progress, "terminal_width", lambda: None)
    follow([0], shown=False)
    assert capsys.readouterr().err == ""


def test_a_pipe_is_no_terminal_and_a_terminal_is_one():
    program = "from tpi_mpi.common.terminal import terminal_width; print(terminal_width())"
    command = [sys.executable, "-c", program]
    piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "cwd": REPOSITORY, "text": True}
    launched = [sys.executable, "-c", f"import subprocess; subprocess.run({command}, stderr=subprocess.PIPE)"]
    controller, end = pty.openpty()
    assert subprocess.run(command, stderr=end, **piped).stdout.strip() == "80"
    assert subprocess.run(launched, stderr=end, **piped).stdout.strip() == "80"  # as mpirun does
    os.close(end)
    os.close(controller)
    quiet = [sys.executable, "-c", f"import subprocess; subprocess.run({launched}, stderr=subprocess.PIPE)"]
    assert subprocess.run(quiet, stderr=subprocess.PIPE, **piped).stdout.strip() == "None"
