"""Servers for tests: started as a user would, and asked with the standard library."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from conftest import REPOSITORY, environment

PATIENCE = 60


class Server:
    """A tpi_mpi.serve of some slabs, on any free port."""

    def __init__(self, slabs: Path, ranks: int, directory: Path, *arguments):
        self.log = directory / "log"
        ready = directory / "url"
        command = [sys.executable, "-m", "tpi_mpi.serve", slabs, "--ranks", ranks, "--port", 0, "--ready-file", ready]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                list(map(str, [*command, *arguments])), cwd=REPOSITORY, env=environment(), stdout=log, stderr=log
            )
        until(lambda: ready.exists() or self.process.poll() is not None)
        assert ready.exists(), self.log.read_text()
        self.url = ready.read_text().strip()

    def wait_until_ready(self) -> "Server":
        until(lambda: self.get("/health")[0] == 200 or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers) -> tuple[int, bytes, dict]:
        """The status, the body and the headers of an answer."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def get(self, path: str, **headers) -> tuple[int, dict]:
        status, content, _ = self.ask("GET", path, **headers)
        return status, json.loads(content)

    def post(self, path: str, **fields) -> tuple[int, dict]:
        status, content, _ = self.ask("POST", path, json.dumps(fields).encode(), **JSON)
        return status, json.loads(content)

    def open(self, path: str, **fields) -> http.client.HTTPResponse:
        """The answer to a request, as it comes."""
        connection = self.connect()
        connection.request("POST", path, json.dumps(fields), JSON)
        response = connection.getresponse()
        response.connection = connection
        return response

    def stream(self, path: str, **fields) -> list[dict]:
        """The events of a stream, which must end as it should."""
        events = list(events_of(self.open(path, stream=True, **fields)))
        assert events[-1] == "[DONE]"
        return events[:-1]

    def ranks(self) -> list[int]:
        """The processes of its ranks, in no order."""
        found = []
        for process in descendants(self.process.pid):
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if b"tpi_mpi.backend" in words[:4]:
                found.append(process)
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()


JSON = {"Content-Type": "application/json"}


def events_of(response: http.client.HTTPResponse) -> Iterator[dict | str]:
    """The events of a stream: objects, comments as they are, and the last word."""
    assert response.status == 200, response.read()
    for line in response:
        line = line.decode().rstrip("\n")
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)
        elif line.startswith(":"):
            yield line


def until(condition) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.02)


def descendants(process: int) -> Iterator[int]:
    """All processes that descend from one."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
