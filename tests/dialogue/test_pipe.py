"""A chat through a pipe: the program as others run it."""

import io
import json
import os
import sys

import pytest
from conftest import run_module
from fake_server import FakeServer, end, text

from tpi_mpi.dialogue.pipe import questions


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


def chat(server: FakeServer, lines: str, *arguments, **settings):
    return run_module("tpi_mpi.chat", "--url", server.url, *arguments, input=lines, **settings)


def test_answers_alone_are_on_standard_output(server):
    finished = chat(server, "one\n\ntwo\\\nlines\n/set seed 3\nthree", "--system", "Be brief.", "--top-k", "5")
    assert finished.stdout == "You said: one \nYou said: two\nlines \nYou said: three \n"
    assert finished.stderr.startswith("tpi_mpi: temperature as the server wants")
    assert finished.returncode == 0
    assert [len(body["messages"]) for body in server.bodies] == [2, 4, 6]
    assert [body.get("seed") for body in server.bodies] == [None, None, 3]
    assert server.bodies[0]["top_k"] == 5


def test_the_first_request_that_fails_ends_it(server):
    server.refusal = (400, "no", {})
    finished = chat(server, "one\ntwo\n")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "tpi_mpi: the server refuses this: no\n"
    assert len(server.bodies) == 1
    server.refusal = (503, "loading", {})
    assert chat(server, "one\n").returncode == 1


def test_escape_sequences_and_thoughts_are_left_out(server):
    events = [text("\x1b[31mred\x07\r\n\ttab\x9b\x7f", finish_reason="length"), text("hm", "reasoning_content")]
    server.script = lambda body: [*events, *end(2, "length")]
    finished = chat(server, "one\n")
    assert finished.stdout == "[31mred\n\ttab\n"
    assert "ended at its limit of tokens; --max-tokens" in finished.stderr


def test_quit_ends_it_before_the_end_of_input(server):
    finished = chat(server, "/quit\none\n")
    assert (finished.returncode, finished.stdout, server.bodies) == (0, "", [])


def test_the_conversation_can_be_saved(server, tmp_path):
    assert chat(server, f"one\n/save {tmp_path}/a.json\n").returncode == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["messages"]) == 2


def test_the_api_key_is_in_a_file_or_in_the_environment(server, tmp_path, monkeypatch):
    server.key = "secret"
    (tmp_path / "key").write_text("secret\n")
    assert chat(server, "one\n", "--api-key-file", tmp_path / "key").returncode == 0
    monkeypatch.setitem(os.environ, "TPI_MPI_API_KEY", "guess")
    assert "does not accept the API key" in chat(server, "one\n").stderr


def test_questions_are_lines_and_a_backslash_continues_them():
    lines = io.StringIO(" a \n\n \\\n\nb\\\nc\nd\\")
    assert list(questions(lines)) == ["a", "b\nc", "d"]


MISTAKES = [
    (["--overlap"], "unrecognized arguments: --overlap; see --help"),
    (
        ["--memory", "2GiB"],
        "2GiB is not a directory of slabs, which is named before all options; without",
    ),
    (["--ranks", "2"], "--ranks needs SLABS"),
    (["nowhere", "--ranks", "2"], "nowhere is not a directory of slabs, which is named before all options\n"),
    ([".", "--url", "http://a"], "--url and --api-key-file are for a server that runs already"),
    ([".", "--ranks", "2", "--port=80"], "--port=80 is not for a server of this chat alone"),
    (["."], "--ranks is None; give how many ranks"),
    (["--top-p", "2"], "top_p is '2'; a number from 0 to 1 is needed"),
    (["--url", "here"], "--url is 'here'; the address of a server is needed"),
    (["--api-key-file", "nowhere"], "nowhere cannot be read as an API key"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_on_the_command_line_is_one_sentence(arguments, words, monkeypatch, capsys):
    from tpi_mpi.chat import main

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr("signal.signal", lambda *handler: None)
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
