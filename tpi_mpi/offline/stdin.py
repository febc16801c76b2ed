"""Standard input of rank 0, read to its end even where mpirun does not pass that end on.

Open MPI 5's mpirun forwards its standard input to rank 0 but, in several releases, not the end of it, so that a
reader would wait for ever. If mpirun runs on this machine, its own standard input shows when there is no more.
"""

import os
import select
import stat
import sys
from collections.abc import Iterator

from tpi_mpi.common.errors import say

PIECE = 1 << 16
"""Bytes that are read at once."""

# Seconds within which everything that the launcher still had to forward arrives, once its own input has ended.
_GRACE = 1.0
# Seconds of silence after which a person may want to know what the program is waiting for.
_PATIENCE = 10.0


def read_stdin() -> Iterator[bytes]:
    """Yields the bytes of standard input, piece by piece."""
    source = _launchers_input()
    if source is None:
        yield from _pieces(sys.stdin.fileno())
        return
    try:
        forwarded = stat.S_ISFIFO(os.fstat(source).st_mode)
        yield from _Forwarded(source) if forwarded else _pieces(source)
    finally:
        os.close(source)


def _pieces(descriptor: int) -> Iterator[bytes]:
    with open(descriptor, "rb", closefd=False) as file:
        yield from iter(lambda: file.read(PIECE), b"")


def _launchers_input() -> int | None:
    """A descriptor of the standard input of the mpirun that started this process, unless that is a terminal."""
    if "OMPI_COMM_WORLD_RANK" not in os.environ or not sys.platform.startswith("linux"):
        return None
    try:
        descriptor = os.open(f"/proc/{os.getppid()}/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    if not os.isatty(descriptor):
        return descriptor
    os.close(descriptor)
    return None


class _Forwarded:
    """Pieces that mpirun forwards from a pipe, until the pipe has no writer left and nothing more arrives."""

    def __init__(self, source: int):
        self._source = source
        self._own = sys.stdin.fileno()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._read, b"")

    def _read(self) -> bytes:
        """The bytes that arrive next; none at the end."""
        silent = 0.0
        while not select.select([self._own], [], [], _GRACE)[0]:
            if self._drained():
                return b""
            silent += _GRACE
            if silent == _PATIENCE:
                say("waiting for the end of standard input; if mpirun does not pass it on, give --prompts a file")
        return os.read(self._own, PIECE)

    def _drained(self) -> bool:
        """Whether the launcher's pipe is empty and has no writer left."""
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        return any(events & select.POLLHUP and not events & select.POLLIN for _, events in poll.poll(0))
