"""The lines of a prompts file, as bytes."""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from tpi_mpi.common.errors import UserError
from tpi_mpi.offline.stdin import PIECE, read_stdin


class Lines:
    """The lines of a file, read anew at every iteration, one iteration at a time. A context manager.

    What can be read only once, such as standard input or a pipe, is first copied to a temporary file.
    Raises UserError, on construction and when it is iterated over, if the file cannot be read.

    path: ``-`` for standard input. origin: its name, for messages.
    nbytes: its size; what is appended to it later is not read. read: bytes that the latest iteration has read.
    """

    def __init__(self, path: str):
        self.origin = "standard input" if path == "-" else path
        self._file = _spool(read_stdin(), self.origin) if path == "-" else _open(path)
        self.nbytes = os.fstat(self._file.fileno()).st_size
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        self.read = 0
        try:
            self._file.seek(0)
            for line in self._file:
                if self.read >= self.nbytes:
                    return
                self.read += len(line)
                yield line
        except OSError as error:
            raise _unreadable(self.origin, error) from None

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


def _open(path: str) -> BinaryIO:
    """The file, or a copy of what can be read only once."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed by whoever gets it)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        with file:
            return _spool(iter(lambda: file.read(PIECE), b""), path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _spool(pieces: Iterable[bytes], origin: str) -> BinaryIO:
    """A temporary file with these pieces, which is gone when it is closed."""
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by whoever gets it)
        for piece in pieces:
            file.write(piece)
        file.flush()
    except OSError as error:
        directory = tempfile.gettempdir()
        raise UserError(f"{origin} cannot be copied to {directory}: {error}; set TMPDIR to another directory") from None
    return file


def _unreadable(origin: str, error: OSError) -> UserError:
    return UserError(f"prompts file {origin} cannot be read: {error}")
