"""A server for one chat alone: it is ready when the chat begins, and gone when that ends, however it ends."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import REPOSITORY

from tpi_mpi.chat import chat
from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.dialogue import run
from tpi_mpi.dialogue.remote.private_server import PrivateServer
from tpi_mpi.dialogue.remote.readiness import started


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY / 'tests'}{os.pathsep}{REPOSITORY}")


def serve(slabs: Path, *options: str, grace: float = 5.0) -> PrivateServer:
    return PrivateServer(slabs, 2, options, "fake_server", grace)


def serving(slabs: Path) -> dict[int, list[str]]:
    """The stand-ins that were started with these slabs, by process id: their command lines."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[1:4] == ["-m", "fake_server", str(slabs)]:
            found[int(process.name)] = words[4:-1]
    return found


def await_end(there: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_gets_all_options_and_answers_nobody_else(tmp_path, capsys):
    with serve(tmp_path, "--memory", "2GiB") as server:
        client = started(server)
        ((_, words),) = serving(tmp_path).items()
        key = Path(words[words.index("--api-key-file") + 1])
        assert words[:6] == ["--ranks", "2", "--memory", "2GiB", "--host", "127.0.0.1"]
        assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert client.model()
        client._headers.pop("Authorization")
        with pytest.raises(UserError, match="does not accept the API key"):
            client.model()
        server.check()
    assert serving(tmp_path) == {}
    assert not key.parent.exists()
    assert capsys.readouterr().err == "loading [31mthe model\n"


def test_one_that_does_not_start_is_told_with_its_last_lines(tmp_path, capsys):
    with pytest.raises(UserError, match="the server of this chat has ended with exit status 2"):
        with serve(tmp_path, "--mistake") as server:
            started(server)
    assert "tpi_mpi: no such option --mistake\n" in capsys.readouterr().err


def test_one_that_is_lost_is_told(tmp_path):
    with serve(tmp_path) as server:
        started(server)
        (number,) = serving(tmp_path)
        os.kill(number, signal.SIGKILL)
        with pytest.raises(TpiError, match="has ended with exit status 137"):
            server.explain()


def test_one_that_does_not_want_to_end_is_killed(tmp_path):
    with serve(tmp_path, "--stubborn", grace=0.2) as server:
        started(server)
        began = time.monotonic()
    assert time.monotonic() - began < 4
    assert serving(tmp_path) == {}


OWNER = """
import sys
from pathlib import Path
from tpi_mpi.dialogue import run
from tpi_mpi.dialogue.remote.private_server import PrivateServer
from tpi_mpi.dialogue.remote.readiness import started
with PrivateServer(Path(sys.argv[1]), 2, (), "fake_server") as server:
    started(server)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_a_chat_that_is_killed(tmp_path, number):
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as owner:
        assert owner.stdout.readline() == b"ready\n"
        ((_, words),) = serving(tmp_path).items()
        owner.send_signal(number)
        owner.wait(10)
    await_end(lambda: serving(tmp_path))
    await_end(Path(words[words.index("--api-key-file") + 1]).parent.exists)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_guard(tmp_path, number):
    with serve(tmp_path) as server:
        started(server)
        server._guard.send_signal(number)
        await_end(lambda: serving(tmp_path))


def test_a_chat_starts_one_if_it_gets_slabs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "PrivateServer", partial(PrivateServer, module="fake_server"))
    monkeypatch.setattr(run, "_end_orderly", lambda: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))
    chat([str(tmp_path), "--ranks", "2", "--memory", "2GiB", "--seed", "3"])
    assert capsys.readouterr().out == "You said: Hello \n"
    assert serving(tmp_path) == {}
