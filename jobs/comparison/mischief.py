"""What clients do to a server: ask as they should, ask for nonsense, leave in the middle, or hardly read."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from random import Random
from urllib.parse import urlsplit

from served import CHAT, COMPLETIONS, JSON, questions

HUGE = 9 << 20  # bytes of a body, of which the server takes 8 MiB
SEVERAL = 4
# Answers that say that there is none now: too many requests wait, or an engine was lost.
TURNED_AWAY = (429, 503)
BAD_BODIES = [
    b"",
    b"{",
    b"[1]",
    b"\xff",
    b"[" * 100_000,
    b'{"messages": "hello"}',
    b'{"messages": [{"role": "wizard"}]}',
]


class Wrong(Exception):
    """Something that a server must not do."""


class Client:
    """One that asks one thing after another, at random.

    seconds: in which anything must have ended.
    """

    def __init__(self, url: str, seed: int, seconds: float):
        self._address, self._random, self._seconds = urlsplit(url).netloc, Random(seed), seconds
        self._questions = questions()

    def act(self) -> tuple[str, str]:
        """Does something; returns what, and what came of it. Raises Wrong if that should not have come of it."""
        names = list(_WHAT)
        name = self._random.choices(names, [weight for weight, _ in _WHAT.values()])[0]
        began = time.monotonic()
        try:
            outcome = _WHAT[name][1](self)
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            raise Wrong(f"{name}: {error!r} after {time.monotonic() - began:.1f} s") from error
        except Wrong as error:
            raise Wrong(f"{name}: {error}") from error
        if time.monotonic() - began > self._seconds:
            raise Wrong(f"{name}: took {time.monotonic() - began:.1f} s")
        return name, outcome

    def whole(self) -> str:
        return self._whole_chat(1)

    def streamed(self) -> str:
        return self._streamed_chat(1)

    def several(self) -> str:
        return self._random.choice((self._whole_chat, self._streamed_chat))(SEVERAL)

    def _whole_chat(self, count: int) -> str:
        status, answer = self._ask(CHAT, self._body(n=count))
        if status != 200:
            return turned_away(status, answer)
        check_whole(answer, count)
        return "answered"

    def _streamed_chat(self, count: int) -> str:
        connection, response = self._opened(self._body(n=count, stream=True))
        try:
            return self._read_all(response, count)
        finally:
            connection.close()

    def slow_reader(self) -> str:
        """Reads few bytes at a time, with pauses, for some seconds; then the rest."""
        connection, response = self._opened(self._body(n=SEVERAL, stream=True), receive_buffer=4096)
        begun, until = b"", time.monotonic() + self._random.uniform(1, 10)
        try:
            while response.status == 200 and time.monotonic() < until:
                begun += response.read(self._random.randint(1, 40))
                time.sleep(self._random.uniform(0, 0.5))
            return self._read_all(response, SEVERAL, begun)
        finally:
            connection.close()

    def leaver(self) -> str:
        """Closes the connection before the answer has come whole."""
        stream = self._random.random() < 0.7
        connection = self._connected()
        try:
            connection.request("POST", CHAT, self._body(n=self._random.choice((1, SEVERAL)), stream=stream), JSON)
            if stream and self._random.random() < 0.8:
                connection.getresponse().read(self._random.randint(1, 2000))
            else:
                time.sleep(self._random.uniform(0, 0.5))
        finally:
            connection.close()
        return "left"

    def interrupted_body(self) -> str:
        """Closes the connection in the middle of the request."""
        with socket.create_connection(tuple(self._address.split(":")), self._seconds) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: {self._address}\r\nContent-Type: application/json\r\n"
            connection.sendall(f'{head}Content-Length: 1000\r\n\r\n{{"messages"'.encode())
            time.sleep(self._random.uniform(0, 0.2))
        return "left"

    def nonsense(self) -> str:
        return self._refused(400, self._random.choice(BAD_BODIES))

    def huge_body(self) -> str:
        return self._refused(413, b"x" * HUGE)

    def unknown_parameter(self) -> str:
        return self._refused(400, self._body(frobnicate=self._random.random()))

    def scoring(self) -> str:
        """Has prompts scored, without new tokens but one."""
        prompts = [self._random.choice(self._questions) for _ in range(self._random.randint(1, SEVERAL))]
        own = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        status, answer = self._ask(COMPLETIONS, json.dumps(own).encode())
        if status != 200:
            return turned_away(status, answer)
        for choice, prompt in zip(answer["choices"], prompts, strict=True):
            scores = choice["logprobs"]["token_logprobs"]
            if not choice["text"].startswith(prompt) or scores[0] is not None or not all(x <= 0 for x in scores[1:]):
                raise Wrong(f"scores of another prompt: {choice}")
        return "answered"

    def _body(self, **fields: object) -> bytes:
        asked = self._random.sample(self._questions, self._random.choice((1, 2)))
        turns = [{"role": "user", "content": asked[0]}]
        for question in asked[1:]:
            turns += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": question}]
        sampling = {"temperature": self._random.choice((0, 1)), "max_tokens": self._random.randint(1, 60)}
        return json.dumps({"messages": turns, **sampling, **fields}).encode()

    def _refused(self, expected: int, body: bytes) -> str:
        status, answer = self._ask(CHAT, body)
        if status != expected:
            raise Wrong(f"status {status} instead of {expected}: {answer}")
        check_error(answer)
        return f"refused {status}"

    def _ask(self, path: str, body: bytes) -> tuple[int, dict]:
        connection = self._connected()
        try:
            connection.request("POST", path, body, JSON)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def _opened(
        self, body: bytes, receive_buffer: int | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connected()
        connection.connect()
        if receive_buffer:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.request("POST", CHAT, body, JSON)
        return connection, connection.getresponse()

    def _connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, timeout=self._seconds)

    def _read_all(self, response: http.client.HTTPResponse, count: int, begun: bytes = b"") -> str:
        content = begun + response.read()
        if response.status != 200:
            return turned_away(response.status, json.loads(content))
        return check_stream(content, count)


def turned_away(status: int, answer: dict) -> str:
    """The outcome of a request that got an error. Raises Wrong unless it may get that one."""
    check_error(answer)
    if status not in TURNED_AWAY:
        raise Wrong(f"status {status}: {answer}")
    return f"turned away {status}"


def check_error(answer: dict) -> None:
    if not answer["error"]["message"] or not isinstance(answer["error"]["type"], str):
        raise Wrong(f"no error: {answer}")


def check_whole(answer: dict, count: int) -> None:
    indices = [choice["index"] for choice in answer["choices"]]
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    reasons = {choice["finish_reason"] for choice in answer["choices"]}
    whole = indices == list(range(count)) and all(isinstance(text, str) for text in texts)
    if not whole or not reasons <= {"stop", "length"} or answer["usage"]["completion_tokens"] < count:
        raise Wrong(f"an answer that is not whole: {answer}")


def check_stream(content: bytes, count: int) -> str:
    """The outcome of a stream: an answer with all its ends, or an error at its end. Raises Wrong otherwise."""
    lines = list(data_of(content))
    if lines[-1] != "[DONE]":
        check_error(json.loads(lines[-1]))
        return "error event"
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    ends = sorted(choice["index"] for choice in choices if choice["finish_reason"] in ("stop", "length"))
    if ends != list(range(count)):
        raise Wrong(f"a stream of {count} answers, of which these ended: {ends}")
    return "answered"


def data_of(content: bytes) -> Iterator[str]:
    """The data of the events in a stream. Raises Wrong for one that was cut."""
    if not content.endswith(b"\n\n"):
        raise Wrong(f"a stream that was cut: it ends in {content[-60:]!r}")
    for line in content.decode().splitlines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


# By name: how often it is done, beside the others, and how.
_WHAT: dict[str, tuple[int, Callable[[Client], str]]] = {
    "whole": (4, Client.whole),
    "streamed": (4, Client.streamed),
    "several": (2, Client.several),
    "scoring": (2, Client.scoring),
    "slow reader": (1, Client.slow_reader),
    "leaver": (3, Client.leaver),
    "interrupted body": (1, Client.interrupted_body),
    "nonsense": (2, Client.nonsense),
    "huge body": (1, Client.huge_body),
    "unknown parameter": (1, Client.unknown_parameter),
}
