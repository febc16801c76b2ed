"""A server that answers by the protocol, but has no model: what it says to a question is written by the test.

    python -m fake_server SLABS --ranks N --port 0 --ready-file FILE --api-key-file FILE [--mistake] [--stubborn]

is a stand-in for the program that serves slabs.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

MODEL = "fake-1B"
DONE = "[DONE]"


def text(content: str, kind: str = "content", finish_reason: str | None = None) -> str:
    """An event that adds to an answer."""
    return json.dumps({"choices": [{"delta": {kind: content}, "finish_reason": finish_reason}]})


def end(tokens: int, finish_reason: str = "stop") -> Iterator[str]:
    """The events that end an answer."""
    yield text("", finish_reason=finish_reason)
    yield json.dumps({"choices": [], "usage": {"completion_tokens": tokens}})
    yield DONE


def echo(body: dict) -> Iterator[str]:
    """The events of an answer that repeats the question, word by word."""
    words = ["You", "said:", *body["messages"][-1]["content"].split(" ")]
    yield from (text(f"{word} ") for word in words)
    yield from end(len(words))


class FakeServer(ThreadingHTTPServer):
    """Listens on a free port while the with-block lasts.

    script: the events of an answer to a request; an empty one waits like a server that computes.
    refusal: status, message and headers instead of answers. health: status and reply, one after the other; the last
    stays. bodies: the requests so far. stopped: set once a client has closed the connection of an unfinished answer.
    """

    daemon_threads = True

    def __init__(self, script: Callable[[dict], Iterator[str]] = echo, key: str | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.key = script, key
        self.refusal: tuple[int, str, dict] | None = None
        self.health = [(200, {"status": "ready"})]
        self.machines = {"status": "ready", "sweep": {"blocks": 160, "done": 37, "left_s": 11.5}}
        self.bodies: list[dict] = []
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "FakeServer":
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *request) -> None:
        """Says nothing: clients come and go."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        if self.path == "/health":
            self._reply(*(server.health.pop(0) if len(server.health) > 1 else server.health[0]))
        elif not self._allowed():
            self._refuse(401, "wrong key")
        elif self.path == "/v1/models":
            self._reply(200, {"data": [{"id": MODEL}]})
        elif self.path == "/machines":
            self._reply(200, server.machines)
        else:
            self._refuse(404, "no such page")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        if not self._allowed():
            self._refuse(401, "wrong key")
        elif self.server.refusal:
            self._refuse(*self.server.refusal)
        else:
            self._stream(body)

    def _allowed(self) -> bool:
        return self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}"

    def _refuse(self, status: int, message: str, headers: dict | None = None) -> None:
        self._reply(status, {"error": {"message": message, "type": "x", "param": None, "code": None}}, headers)

    def _reply(self, status: int, value: object, headers: dict | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, body: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for event in self.server.script(body):
                self._chunk(f"data: {event}\n\n" if event else ": waiting\n\n")
            self._chunk("")
        except OSError:
            self.server.stopped.set()

    def _chunk(self, content: str) -> None:
        data = content.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


def main() -> None:
    arguments = sys.argv[1:]
    following = dict(pairwise(arguments))
    print("loading \x1b[31mthe model", file=sys.stderr, flush=True)
    if "--mistake" in arguments:
        print("tpi_mpi: no such option --mistake", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "--stubborn" in arguments else lambda *_: os._exit(0))
    with FakeServer(key=Path(following["--api-key-file"]).read_text()) as server:
        server.health.insert(0, (503, {"status": "loading"}))
        ready = Path(following["--ready-file"])
        ready.with_suffix(".partial").write_text(server.url)
        ready.with_suffix(".partial").rename(ready)
        threading.Event().wait()


if __name__ == "__main__":
    main()
