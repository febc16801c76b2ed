"""What becomes of requests when clients go, ranks are lost, or the server is told to end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import pytest
import servers
from conftest import REPOSITORY, environment

COMPLETIONS = "/v1/completions"
SHORT = {"prompt": [1, 350, 2], "max_tokens": 2}
# Eight answers of 500 tokens, one after another with --batch 1: some seconds.
LONG = {"prompt": [1, 350, 2], "max_tokens": 500, "temperature": 2, "n": 8}


@pytest.fixture
def start(demo_slabs, tmp_path):
    started = []

    def start(*arguments, ranks: int = 2) -> servers.Server:
        started.append(servers.Server(demo_slabs(ranks), ranks, tmp_path, "--batch", 1, *arguments))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def counts(server: servers.Server) -> tuple[int, int]:
    """How many sequences are under way, and how many wait."""
    _, told = server.get("/machines")
    return told["running"], told["waiting"]


class Asked(threading.Thread):
    """A request that somebody else makes. answer: the status and the answer, once it has come."""

    def __init__(self, server: servers.Server, **fields):
        super().__init__(daemon=True)
        self._server, self._fields = server, fields
        self.start()

    def run(self) -> None:
        self.answer = self._server.post(COMPLETIONS, **self._fields)

    def result(self) -> tuple[int, dict]:
        self.join(servers.PATIENCE)
        return self.answer


def test_a_client_that_goes_frees_its_place(start):
    server = start().wait_until_ready()
    for stream in (True, False):
        connection = server.connect()
        connection.request("POST", COMPLETIONS, json.dumps({**LONG, "stream": stream}), servers.JSON)
        servers.until(lambda: counts(server) == (1, 7))
        connection.close()
        began = time.monotonic()
        assert server.post(COMPLETIONS, **SHORT)[0] == 200
        assert time.monotonic() - began < 1
        servers.until(lambda: counts(server) == (0, 0))
    assert server.stop() == 0


def test_when_a_rank_is_lost_those_under_way_are_told_and_those_that_wait_are_served(start):
    server = start("--timeout", 5).wait_until_ready()
    events = servers.events_of(server.open(COMPLETIONS, stream=True, **{**LONG, "n": 1}))
    next(events)
    for rank in server.ranks():
        os.kill(rank, signal.SIGSTOP)  # so that nothing ends before the rank is lost
    waiting = Asked(server, **SHORT)
    servers.until(lambda: counts(server) == (1, 1))
    servers.kill(server.ranks()[0])
    *_, last = events
    assert last["error"]["code"] == 503
    assert "the engine was lost while it computed this" in last["error"]["message"]
    status, answer = waiting.result()
    assert (status, answer["usage"]["completion_tokens"]) == (200, 2)
    assert server.get("/machines")[1]["restarts"] == 1
    assert server.stop() == 0


def test_an_answer_at_once_is_an_error_when_its_rank_is_lost(start):
    server = start("--timeout", 5).wait_until_ready()
    asked = Asked(server, **LONG)
    servers.until(lambda: counts(server) == (1, 7))
    servers.kill(server.ranks()[-1])
    status, answer = asked.result()
    assert status == 503
    assert "try again" in answer["error"]["message"]


def test_what_may_bring_the_engine_down_does_so_three_times_at_most(start):
    server, asked = start("--timeout", 5).wait_until_ready(), None
    for _ in range(3):
        servers.until(lambda: server.get("/health")[0] == 200)
        for rank in server.ranks():
            os.kill(rank, signal.SIGSTOP)  # before it can say that the turn of anything has come
        asked = asked or Asked(server, **SHORT)
        servers.until(lambda: counts(server) == (0, 1))
        servers.kill(server.ranks()[0])
        servers.until(lambda: server.get("/health")[0] == 503)
    assert asked.result()[0] == 503


def test_an_engine_that_is_lost_again_and_again_is_given_up(start):
    server = start("--restarts", 1, "--timeout", 5).wait_until_ready()
    for _ in range(2):
        servers.until(lambda: server.get("/health")[0] == 200)
        servers.kill(server.ranks()[0])
        servers.until(lambda: server.process.poll() is not None or server.get("/health")[0] == 503)
    assert server.process.wait(timeout=servers.PATIENCE) == 1
    assert "the engine was lost 2 times in a row; see --restarts" in server.log.read_text()


def test_requests_wait_for_an_engine_that_is_loading_and_too_many_are_turned_away(start):
    server = start("--queue", 2)
    asked = [Asked(server, **SHORT) for _ in range(2)]
    assert [own.result()[0] for own in asked] == [200, 200]
    for rank in server.ranks():
        os.kill(rank, signal.SIGSTOP)
    asked = [Asked(server, **SHORT) for _ in range(3)]
    servers.until(lambda: sum(counts(server)) == 3)
    status, content, headers = server.ask("POST", COMPLETIONS, json.dumps(SHORT).encode(), **servers.JSON)
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert b"at most 2" in content
    for rank in server.ranks():
        os.kill(rank, signal.SIGCONT)
    assert [own.result()[0] for own in asked] == [200] * 3


def test_a_server_that_is_told_to_end_finishes_what_is_under_way(start):
    server = start().wait_until_ready()
    asked = Asked(server, **{**LONG, "n": 2})
    servers.until(lambda: counts(server) == (1, 1))
    server.process.send_signal(signal.SIGTERM)
    servers.until(lambda: "stopping once 2 sequences have ended" in server.log.read_text())
    status, content = server.post(COMPLETIONS, **SHORT)
    assert (status, content["error"]["message"]) == (503, "the server is stopping")
    assert asked.result()[0] == 200
    assert server.process.wait(timeout=servers.PATIENCE) == 0


def test_what_takes_longer_than_the_end_may_is_told_so(start):
    server = start("--drain", 0.1).wait_until_ready()
    for rank in server.ranks():
        os.kill(rank, signal.SIGSTOP)
    asked = Asked(server, **SHORT)
    servers.until(lambda: sum(counts(server)) == 1)
    server.process.send_signal(signal.SIGTERM)
    status, answer = asked.result()
    assert (status, answer["error"]["message"]) == (503, "the server is stopping")
    for rank in server.ranks():
        os.kill(rank, signal.SIGCONT)
    assert server.process.wait(timeout=servers.PATIENCE) == 0


def test_a_second_signal_ends_a_server_at_once(start):
    server = start("--drain", 100).wait_until_ready()
    asked = Asked(server, **LONG)
    servers.until(lambda: counts(server) == (1, 7))
    server.process.send_signal(signal.SIGINT)
    servers.until(lambda: "a second signal" in server.log.read_text())
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10
    assert asked.result()[0] == 503


def test_a_stream_says_that_it_still_waits(start):
    server = start().wait_until_ready()
    for rank in server.ranks():
        os.kill(rank, signal.SIGSTOP)
    events = servers.events_of(server.open(COMPLETIONS, stream=True, **SHORT))
    assert next(events) == ": waiting"
    for rank in server.ranks():
        os.kill(rank, signal.SIGCONT)
    assert list(events)[-1] == "[DONE]"


def test_keys_are_asked_for(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\n")
    server = start("--api-key-file", keys, ranks=1).wait_until_ready()
    for path in ("/v1/models", "/machines", "/metrics", "/tokenize"):
        assert server.ask("GET", path)[0] == 401
        assert server.ask("GET", path, Authorization="Bearer three")[0] == 401
    assert server.ask("GET", "/v1/models", Authorization="Bearer two", Host="other.example")[0] == 200
    assert server.ask("GET", "/")[0] == 200


def test_pages_of_a_named_origin_may_ask_and_prompts_are_logged_where_that_is_wanted(start):
    options = ["--cors", "http://friend.example", "--model-name", "mine", "--log-prompts"]
    server = start(*options, ranks=1).wait_until_ready()
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    status, _, headers = server.ask("OPTIONS", COMPLETIONS, Origin="http://friend.example", **asking)
    assert (status, headers["access-control-allow-origin"]) == (200, "http://friend.example")
    assert server.ask("OPTIONS", COMPLETIONS, Origin="http://stranger.example", **asking)[0] == 400
    assert server.get("/v1/models")[1]["data"][0]["id"] == "mine"
    assert server.post(COMPLETIONS, prompt="a secret", max_tokens=2)[0] == 200
    assert "a secret" in server.log.read_text()


def test_prompts_are_not_logged_otherwise(start):
    server = start(ranks=1).wait_until_ready()
    assert server.post(COMPLETIONS, prompt="a secret", max_tokens=2)[0] == 200
    assert server.post(COMPLETIONS, prompt="a secret", frobnicate="a secret")[0] == 400
    assert server.post(COMPLETIONS, prompt="a secret", model="a secret")[0] == 404
    assert server.stop() == 0
    assert server.log.read_text().count(COMPLETIONS) == 3
    assert "secret" not in server.log.read_text()


MISTAKES = [
    (["--host", "0.0.0.0"], "give --api-key-file FILE, or --no-api-key to let everybody in"),
    (["--ranks", "3"], "the slabs were split for 1 ranks; give --ranks 1"),
    (["--port", "99999"], "--port is 99999"),
    (["--api-key-file", "/dev/null"], "/dev/null must hold an API key on each line"),
    (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["--memory", "1"], "has no unit"),
    (["--memory", "1MiB"], "the engine ended before it was ready, with exit status 2; the reason stands above"),
    (["--mpirun", "/nowhere/mpirun"], "the engine cannot be started"),
    (["--mpirun", "mpirun 'x"], "the engine cannot be started: No closing quotation"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_told_in_a_sentence(demo_slabs, arguments, sentence):
    command = [sys.executable, "-m", "tpi_mpi.serve", demo_slabs(1), "--ranks", 1, "--port", 0, *arguments]
    finished = subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert finished.returncode == 2, finished.stderr
    assert sentence in finished.stderr.splitlines()[-1]


def test_a_port_that_is_taken_is_told(demo_slabs):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "tpi_mpi.serve", str(demo_slabs(1)), "--ranks", "1", "--port", port]
        finished = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True)
    assert finished.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port} (Address already in use)" in finished.stderr


def test_a_client_that_sends_no_body_or_does_not_read_holds_nobody_up(start):
    server = start().wait_until_ready()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as silent:
        silent.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n")
        deaf = server.open(COMPLETIONS, stream=True, **LONG)
        assert server.post(COMPLETIONS, **SHORT)[0] == 200
        assert deaf.status == 200
        deaf.close()
