"""The engine of a server: what is submitted is continued as anywhere else, and neither end outlives the other."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict

import pytest
import zoo
from conftest import REPOSITORY, environment, mpirun
from servers import descendants

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.request import Request
from tpi_mpi.serving import messages
from tpi_mpi.serving.channel import Channel
from tpi_mpi.tokenizer.tokenizer import Tokenizer

PROMPT = (1, 350, 2)


class Server:
    """Listens as a server does, starts an engine, and keeps what that says."""

    def __init__(self, slabs, ranks: int, directory, *arguments):
        path = str(directory / "s")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            listening.settimeout(60)
            command = [*mpirun(ranks), sys.executable, "-m", "tpi_mpi.backend", slabs, "--socket", path, *arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            self.process = subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, env=environment(), **pipes)
            self.channel = Channel(listening.accept()[0])
        self.heard = self.channel.receive()
        self.ready = self.next(messages.READY)

    def next(self, kind: str) -> dict:
        """The next message of a kind."""
        return next(message for message in self.heard if message["kind"] == kind)

    def submit(self, id: int, prompt=PROMPT, **sampling) -> None:
        self.channel.send(messages.submit(id, Request(prompt, SamplingOptions(seed=1, **sampling))))

    def answers(self, *ids: int) -> dict[int, list[dict]]:
        """What is said of some requests, until all have ended."""
        found, waiting = defaultdict(list), set(ids)
        while waiting:
            for own in self.next(messages.TOKENS)["said"]:
                found[own["id"]].append(own)
                if own["token"] is None or own["token"]["finish_reason"]:
                    waiting.discard(own["id"])
        return found

    def stop(self) -> int:
        self.channel.close()
        return self.end()

    def end(self) -> int:
        """The exit status of the engine, which must come."""
        self.output, _ = self.process.communicate(timeout=30)
        self.channel.close()
        return self.process.returncode


@pytest.fixture
def serve(demo_slabs, tmp_path):
    started = []

    def start(ranks: int, *arguments) -> Server:
        started.append(Server(demo_slabs(ranks), ranks, tmp_path, *arguments))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()


def test_requests_are_continued_together_cancelled_and_scored(serve, demo):
    from transformers import AutoModelForCausalLM

    expected = zoo.continuation(AutoModelForCausalLM.from_pretrained(demo, dtype="bfloat16"), list(PROMPT))
    server = serve(2, "--longest", 200)
    assert server.ready["longest"] == 200
    assert server.ready["settings"]["world_size"] == 2
    server.submit(10, max_new_tokens=300)
    assert "this run has memory for 200" in server.next(messages.REFUSED)["sentence"]
    server.submit(7, max_new_tokens=len(expected["token_ids"]))
    server.submit(8, max_new_tokens=100)
    server.submit(9, max_new_tokens=0, prompt_logprobs=True, top_logprobs=2)
    found = server.answers(7, 9)
    assert [own["token"]["id"] for own in found[7]] == expected["token_ids"]
    assert found[7][0]["cached_tokens"] == 0
    ((end,),) = [found[9]]
    assert messages.token_of(end) is None
    assert [score.id for score in messages.scores_of(end)] == list(PROMPT[1:])
    assert [len(score.top) for score in messages.scores_of(end)] == [2, 2]
    server.channel.send({"kind": messages.CANCEL, "id": 8})
    ranks = server.next(messages.RANKS)
    assert [rank["rank"] for rank in ranks["ranks"]] == [0, 1]
    assert ranks["throughput"]["sweeps"] > 0
    server.submit(11, max_new_tokens=2)
    assert len(server.answers(11)[11]) == 2
    assert server.stop() == 0, server.output


def test_options_of_sampling_arrive_as_they_were_given():
    sampling = SamplingOptions(
        max_new_tokens=5, temperature=0.5, seed=1, min_p=0.1, presence_penalty=1.5, frequency_penalty=-0.5,
        logit_bias={7: -100, 3: 1.5}, json_schema={"type": "object"},
    )  # fmt: skip
    request = Request(PROMPT, sampling, frozenset([0, 2]))
    assert messages.submitted(json.loads(json.dumps(messages.submit(1, request)))) == request


def test_a_schema_is_followed_where_memory_was_set_aside_for_that(serve, demo):
    server = serve(2, "--longest", 200, "--grammar")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    server.submit(2, json_schema={"not": {}})
    assert "Unimplemented keys" in server.next(messages.REFUSED)["sentence"]
    server.submit(1, max_new_tokens=60, json_schema=schema)
    tokens = [own["token"] for own in server.answers(1)[1]]
    assert tokens[-1]["finish_reason"] == "stop"
    assert json.loads(Tokenizer.load(demo).decode([token["id"] for token in tokens]))["a"] in (1, 2)
    assert server.stop() == 0, server.output


def test_an_engine_ends_with_its_server(serve):
    server = serve(2)
    server.submit(1, max_new_tokens=400)
    server.next(messages.TOKENS)
    server.channel.close()
    began = time.monotonic()
    assert server.end() == 0, server.output
    assert time.monotonic() - began < 15


def test_a_server_hears_of_a_rank_that_is_lost(serve):
    server = serve(2)
    os.kill(list(descendants(server.process.pid))[-1], signal.SIGKILL)
    began = time.monotonic()
    for _ in server.heard:  # until there is no more
        pass
    assert time.monotonic() - began < 15
    assert server.end() != 0


def test_nobody_listening_is_told_in_a_sentence(demo_slabs):
    command = [sys.executable, "-m", "tpi_mpi.backend", demo_slabs(1), "--socket", "/nowhere/s"]
    finished = subprocess.run(map(str, command), cwd=REPOSITORY, env=environment(), capture_output=True, text=True)
    assert "the server's socket /nowhere/s cannot be reached (No such file or directory)" in finished.stderr
    assert finished.returncode == 1


def test_what_is_no_message_is_refused():
    for bad in (b"[1]\n", b"{\n", b"\xff\n", b'{"kind": "stop"}'):
        one, other = socket.socketpair()
        sender = threading.Thread(target=lambda end=one, data=bad: (end.sendall(data), end.close()))
        sender.start()
        with pytest.raises(TpiError, match="bytes are no line with a JSON object"):
            list(Channel(other).receive())
        sender.join()


def test_messages_arrive_as_they_were_sent():
    one, other = map(Channel, socket.socketpair())
    sent = [{"kind": "a", "text": "ä\n\u2028"}, {"kind": "b", "numbers": [1.5, None]}]
    for message in sent:
        one.send(message)
    one.close()
    assert list(other.receive()) == sent
    other.close()
