"""An answer on a terminal, as it comes."""

import os
import pty
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from conftest import REPOSITORY

from tpi_mpi.dialogue import display
from tpi_mpi.dialogue.display import Display, dim
from tpi_mpi.dialogue.remote.events import Piece


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(display, "_TICK", 0.01)
    monkeypatch.setattr(display, "own_terminal_width", lambda: None)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_thoughts_are_dimmed_and_an_answer_ends_its_line(capsys):
    with Display(str) as shown:
        for piece in (Piece(thought="well"), Piece(thought="\n"), Piece("Yes"), Piece(), Piece(".")):
            shown.show(piece)
    assert capsys.readouterr().out == "\x1b[2mwell\n\n\x1b[0mYes.\n"


def test_a_thought_that_is_stopped_does_not_dim_what_follows(capsys):
    shown = Display(str)
    with suppress(KeyboardInterrupt), shown:
        shown.show(Piece(thought="well"))
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "\x1b[2mwell\n\n\x1b[0m"


def test_a_status_line_shows_what_is_waited_for_until_something_comes(monkeypatch, capsys):
    asked = threading.Semaphore(0)

    def activity():
        asked.release()
        return "3 of 8 blocks"

    monkeypatch.setattr(display, "own_terminal_width", lambda: 80)
    with Display(activity) as shown:
        for _ in range(2):  # when it is asked for the second time, the first answer is on the screen
            assert asked.acquire(timeout=10)
        assert "waiting, 0 s; 3 of 8 blocks" in capsys.readouterr().err
        shown.show(Piece("Yes.\n"))
    said = capsys.readouterr()
    assert said.err.endswith("\x1b7\n\x1b[K\x1b8")  # the line is cleared
    assert said.out == "Yes.\n"


def test_no_status_line_takes_the_last_column_from_the_answer(monkeypatch, capsys):
    monkeypatch.setattr(display, "own_terminal_width", lambda: 4)
    shown = Display(str)
    for text, there in (("abc", False), ("d", False), ("e", True), ("\u6f22", False), ("\u6f22", True)):
        shown.show(Piece(text))
        capsys.readouterr()
        shown._tell("waiting")
        assert bool(capsys.readouterr().err) == there, text


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_whoever_wants_no_escape_sequences_gets_none(monkeypatch, capsys, variable, value):
    monkeypatch.setenv(variable, value)
    with Display(str) as shown:
        shown.show(Piece(thought="well"))
        shown.show(Piece("Yes."))
    assert capsys.readouterr().out == "well\n\nYes.\n"
    assert dim("4 tokens") == "4 tokens"


def test_a_status_line_is_for_the_terminal_of_standard_error_alone():
    program = "from tpi_mpi.common.terminal import own_terminal_width; print(own_terminal_width())"
    command = [sys.executable, "-c", program]
    launched = [sys.executable, "-c", f"import subprocess; subprocess.run({command}, stderr=subprocess.PIPE)"]
    controller, end = pty.openpty()
    told = [
        subprocess.run(line, stderr=end, stdout=subprocess.PIPE, cwd=REPOSITORY).stdout for line in (command, launched)
    ]
    os.close(end)
    os.close(controller)
    assert told == [b"80\n", b"None\n"]


def test_without_a_terminal_nothing_follows_the_silence(monkeypatch, capsys):
    monkeypatch.setattr(threading, "Thread", None)
    with Display(str) as shown:
        shown.show(Piece("Yes."))
    assert capsys.readouterr() == ("Yes.\n", "")
