"""Servers of OpenAI's protocol that recipes start, and questions to them."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
JSON = {"Content-Type": "application/json"}
PATIENCE = 600  # seconds until a server must be ready, or answer
HANDBOOK = Path(__file__).parents[1] / "demo/handbook.md"


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen
    url: str


@contextmanager
def ours(slabs: Path, ranks: int, log: Path, *options: str | int) -> Iterator[Server]:
    """A tpi_mpi.serve, ready, until the with-block ends. log: what it says is written there."""
    ready = log.with_suffix(".url")
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tpi_mpi.serve", slabs, "--ranks", ranks, "--port", 0, "--ready-file", ready]
    with started([*command, *options], log) as process:
        wait_until(ready.exists, process, log)
        server = Server(process, ready.read_text().strip())
        wait_until(lambda: answers(server.url, "/health"), process, log)
        yield server


@contextmanager
def llama_cpp(python: Path, model: Path, log: Path, *options: str | int) -> Iterator[Server]:
    """A llama_cpp.server of a GGUF file, ready, until the with-block ends. python: where it is installed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, "-m", "llama_cpp.server", "--model", model, "--host", "127.0.0.1", "--port", port]
    with started([*command, *options], log) as process:
        server = Server(process, f"http://127.0.0.1:{port}")
        wait_until(lambda: answers(server.url, "/v1/models"), process, log)
        yield server


@contextmanager
def started(command: Sequence, log: Path) -> Iterator[subprocess.Popen]:
    """A process, until the with-block ends."""
    with open(log, "w") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    """Waits until something is so. Raises SystemExit if the process ends before, or it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not become ready; {log} says why")
        time.sleep(0.1)


def answers(url: str, path: str) -> bool:
    try:
        return bool(get(url, path))
    except OSError:
        return False


def get(url: str, path: str) -> dict:
    """What a server tells at an address. Raises OSError if it does not."""
    with urlopen(url + path, timeout=PATIENCE) as response:
        return json.load(response)


def events(url: str, path: str, **fields: object) -> Iterator[dict]:
    """A streamed answer as it comes. Raises OSError if there is none, ValueError if it does not end as it should."""
    request = Request(url + path, json.dumps({"stream": True, **fields}).encode(), JSON)
    with urlopen(request, timeout=PATIENCE) as response:
        for line in response:
            data = line.decode().partition("data: ")[2].strip()
            if data == "[DONE]":
                return
            if data:
                yield json.loads(data)
    raise ValueError("a stream ended before it was done")


def questions() -> list[str]:
    """All questions that the handbook answers."""
    lines = HANDBOOK.read_text(encoding="utf-8").splitlines()
    return [line.lstrip("#- ") for line in lines if line.startswith(("## ", "- "))]


def as_root() -> None:
    """Lets Open MPI run as root, in a container for instance."""
    if os.geteuid() == 0:
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            os.environ.setdefault(name, "1")
