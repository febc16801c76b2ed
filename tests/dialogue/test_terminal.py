"""A chat on a terminal: the program as a person uses it."""

import io
import os
import pty
import select
import signal
import sys
import termios
import time
from collections.abc import Callable
from itertools import repeat

import pyte
import pytest
from conftest import REPOSITORY
from fake_server import FakeServer, end, text
from prompt_toolkit.history import InMemoryHistory

from tpi_mpi.common.errors import UserError
from tpi_mpi.dialogue import prompt, run, terminal
from tpi_mpi.dialogue.conversation import Conversation
from tpi_mpi.dialogue.display import Display
from tpi_mpi.dialogue.exchange import Exchange
from tpi_mpi.dialogue.remote.client import Client
from tpi_mpi.dialogue.settings import Settings

CTRL_C, CTRL_D, ALT_ENTER, TAB, UP = "\x03", "\x04", "\x1b\r", "\t", "\x1b[A"


class Person:
    """Sits at a terminal of 80 columns and 24 lines, on which a chat runs."""

    def __init__(self, server: FakeServer, home):
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)
        variables = {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "NO_COLOR": "", "XDG_STATE_HOME": str(home)}
        command = [sys.executable, "-m", "tpi_mpi.chat", "--url", server.url]
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            os.chdir(REPOSITORY)
            os.execve(sys.executable, command, os.environ | variables)
        self.sees(lambda lines: lines[-1] == ">")

    def types(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def sees(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """Waits until the lines of the screen, without empty ones below, are as wanted."""
        deadline = time.monotonic() + 10
        while not wanted(lines := self._lines()):
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "\n".join(lines)
            self._stream.feed(os.read(self._terminal, 1 << 16))
        return lines

    def sees_line(self, *words: str) -> None:
        """Waits for a line with each of these words, in that order, and the prompt below."""
        self.sees(lambda lines: lines[-1] == ">" and _in_order(lines, words))

    def leaves(self) -> int:
        """The exit status of the chat, which must have come to its end, with the terminal as it was before."""
        try:
            while os.read(self._terminal, 1 << 16):
                pass
        except OSError:  # the other end is closed
            pass
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        self.process = 0
        assert termios.tcgetattr(self._terminal)[3] & termios.ICANON
        return status

    def close(self) -> None:
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self._terminal)

    def _lines(self) -> list[str]:
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().split("\n")


def _in_order(lines: list[str], words: tuple[str, ...]) -> bool:
    left = iter(lines)
    return all(any(word in line for line in left) for word in words)


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


@pytest.fixture
def person(server, tmp_path):
    person = Person(server, tmp_path)
    yield person
    person.close()


def test_a_chat_from_its_beginning_to_its_end(server, person, tmp_path):
    person.types("Hello\r")
    person.sees_line("fake-1B at http://127.0.0.1:", "> Hello", "You said: Hello", "3 tokens")
    server.script = lambda body: repeat("")
    person.types("/set seed 5\r")
    person.sees_line("seed 5")
    person.types("Slow?\r")
    person.sees(lambda lines: "waiting, 1 s; 37 of 160 blocks" in lines[-1])
    person.types(CTRL_C)
    person.sees_line("> Slow?", "stopped")
    assert server.stopped.wait(10)
    person.types("/new\r")
    person.sees_line("a new conversation")
    server.script = lambda body: [text("hm", "reasoning_content"), text("\x1b[2JYes."), *end(2)]
    person.types("Again?\r")
    person.sees_line("> Again?", "hm", "[2JYes.", "2 tokens")
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Again?"}]
    person.types("/nothing\r")
    person.sees_line("there is no command /nothing")
    person.types("/quit\r")
    assert person.leaves() == 0
    history = tmp_path / "tpi_mpi" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert "+Hello\n" in history.read_text()


def test_keys(server, person):
    person.types(f"one\\\rtwo{ALT_ENTER}three\r")
    person.sees_line("You said: one", "two", "three")
    assert server.bodies[-1]["messages"][-1]["content"] == "one\ntwo\nthree"
    person.types(f"away{CTRL_C}")
    person.types(f"/n{TAB}\r")
    person.sees_line("a new conversation")
    person.types(f"{UP}{CTRL_C}")
    server.refusal = (503, "the engine is restarting", {})
    person.types("four\r")
    person.sees_line("tpi_mpi: the server cannot answer: the engine is restarting")
    server.refusal = None
    person.types("/retry\r")
    person.sees_line("You said: four")
    person.types(CTRL_D)
    assert person.leaves() == 0


def test_a_chat_that_is_told_to_end_leaves_its_terminal_in_order(person):
    os.kill(person.process, signal.SIGTERM)
    assert person.leaves() == 128 + signal.SIGTERM


def test_ctrl_c_as_an_answer_begins_or_ends_leaves_no_status_thread(server, monkeypatch, capsys):
    class Interrupted(Display):
        def __enter__(self):
            signal.raise_signal(signal.SIGINT)
            return super().__enter__()

        def __exit__(self, *exception):
            signal.raise_signal(signal.SIGINT)
            super().__exit__(*exception)

    monkeypatch.setattr(terminal, "Display", Interrupted)
    conversation = Conversation()
    conversation.ask("Hello")
    with terminal._on_interrupt(terminal._ignore):
        terminal._answer(Exchange(Client(server.url), conversation, Settings({})))
    assert "You said: Hello" in capsys.readouterr().out


def test_without_a_home_directory_there_is_no_history(monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", "~nobody.here")
    assert isinstance(prompt._history(), InMemoryHistory)
    assert capsys.readouterr().err == ""


def test_a_history_that_can_no_longer_be_written_is_told_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history = prompt._history()
    history.filename = "/dev/full"
    for line in ("one", "two"):
        history.append_string(line)
    assert capsys.readouterr().err.count("/dev/full cannot be written (No space left on device)") == 1
    assert history.get_strings() == ["one", "two"]


def test_without_prompt_toolkit_a_sentence_says_how_to_install_it(monkeypatch):
    users = ("prompt_toolkit", "tpi_mpi.dialogue.terminal", "tpi_mpi.dialogue.prompt")
    for name in [name for name in sys.modules if name.startswith(users)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("tpi_mpi.dialogue.terminal")
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    for name in ("stdin", "stdout"):
        stream = io.TextIOWrapper(io.BytesIO())
        stream.isatty = lambda: True
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(UserError, match="pip install prompt_toolkit to chat on a terminal"):
        run._way()
