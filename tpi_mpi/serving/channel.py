"""JSON objects over a socket, one a line."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress

from tpi_mpi.common.errors import TpiError

MOST_BYTES = 64 << 20
"""Of a line: the scores of a prompt of 300,000 tokens, or a prompt of millions, take less."""


def encoded(message: Mapping) -> bytes:
    """A message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decoded(line: bytes) -> dict:
    """The message of a line. Raises TpiError if that is no whole line with a JSON object."""
    try:
        message = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise TpiError(f"{len(line)} bytes are no line with a JSON object of at most {MOST_BYTES} bytes")
    return message


class Channel:
    """Each end of a connection has one. Any thread may send; one receives.

    connection: a stream socket, which is closed with the channel.
    """

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()

    @classmethod
    def connect(cls, path: str) -> "Channel":
        """Connects to a socket of this machine. Raises TpiError if nobody listens there."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            reason = f"the server's socket {path} cannot be reached ({error.strerror})"
            raise TpiError(f"{reason}; the first rank must run on the server's machine") from None
        return cls(connection)

    def send(self, message: Mapping) -> None:
        """Raises OSError once the other end is gone."""
        line = encoded(message)
        with self._sending:
            self._connection.sendall(line)

    def receive(self) -> Iterator[dict]:
        """What the other end sends, until it is gone. Raises TpiError if that is no JSON object, or too long."""
        while line := self._line():
            yield decoded(line)

    def _line(self) -> bytes:
        try:
            return self._lines.readline(MOST_BYTES)
        except OSError:  # reset by the other end
            return b""

    def close(self) -> None:
        """Ends the connection; the other end then receives no more."""
        with suppress(OSError):  # it may be connected no longer
            self._connection.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._connection.close()
