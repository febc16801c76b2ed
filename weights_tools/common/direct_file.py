"""A file that is written past the page cache where the filesystem allows it."""

import errno
import os
from pathlib import Path

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.weights.slab import PAGE

_DIRECT = getattr(os, "O_DIRECT", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DirectFile:
    """Puts bytes into their places in an existing file.

    What is written is not read again soon: the page cache would only cost a copy, and the memory of others.

    again: what to do once there is room on a full disk, for the message: ``split again``.
    """

    def __init__(self, path: Path, again: str):
        self._path = path
        self._again = again
        self._plain = os.open(path, os.O_WRONLY)
        self._direct = self._open_direct()

    def _open_direct(self) -> int | None:
        """None where this filesystem knows no direct writes."""
        if not _DIRECT:
            return None
        try:
            return os.open(self._path, os.O_WRONLY | _DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    def write(self, data: memoryview, offset: int) -> None:
        """Writes all of the data. Of those that begin on a page, in memory and in the file, whole pages go directly.

        Raises UserError where the disk is full, TpiError where it fails.
        """
        try:
            written = self._write_pages(data, offset) if offset % PAGE == 0 else 0
            while written < len(data):
                written += os.pwrite(self._plain, data[written:], offset + written)
        except OSError as error:
            raise self._trouble(error) from None

    def _write_pages(self, data: memoryview, offset: int) -> int:
        """Writes whole pages directly as long as the kernel takes them; returns how many bytes these were."""
        written, whole = 0, len(data) // PAGE * PAGE
        while self._direct is not None and written < whole:
            try:
                written += os.pwrite(self._direct, data[written:whole], offset + written)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                os.close(self._direct)  # not every filesystem that opens a file for direct writes has them
                self._direct = None
        return written

    def sync(self) -> None:
        """Returns when everything is on the disk."""
        try:
            os.fsync(self._plain)
        except OSError as error:
            raise self._trouble(error) from None

    def _trouble(self, error: OSError) -> TpiError:
        if error.errno in _FULL:
            return UserError(f"the disk is full while {self._path} is written; free some space and {self._again}")
        return TpiError(f"{self._path} cannot be written: {error.strerror}")

    def close(self) -> None:
        """May be called again."""
        for descriptor in (self._plain, self._direct):
            if descriptor is not None:
                os.close(descriptor)
        self._plain = self._direct = None
