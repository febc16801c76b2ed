"""A file that is written past the page cache where the filesystem allows it."""

import errno
import os
from pathlib import Path

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.weights.slabs.extents import PAGE

_DIRECT = getattr(os, "O_DIRECT", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DirectFile:
    """Writes bytes to their places in an existing file.

    What is written is not read again soon, so the page cache would only cost a copy, and memory that others need.

    again: for the message about a full disk, what to do once there is room: ``split again``.
    """

    def __init__(self, path: Path, again: str):
        self._path = path
        self._again = again
        self._plain = os.open(path, os.O_WRONLY)
        self._direct = self._open_direct()

    def _open_direct(self) -> int | None:
        """A descriptor for direct writes; None if this filesystem has none."""
        if not _DIRECT:
            return None
        try:
            return os.open(self._path, os.O_WRONLY | _DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    def write(self, data: memoryview, offset: int) -> None:
        """Writes all of the data at ``offset``. If both begin on a page, whole pages are written directly.

        Raises UserError if the disk is full, TpiError if it fails.
        """
        try:
            written = self._write_pages(data, offset) if offset % PAGE == 0 else 0
            while written < len(data):
                written += os.pwrite(self._plain, data[written:], offset + written)
        except OSError as error:
            raise self._trouble(error) from None

    def _write_pages(self, data: memoryview, offset: int) -> int:
        """Writes whole pages directly, as long as the kernel accepts them; returns how many bytes that was."""
        written, whole = 0, len(data) // PAGE * PAGE
        while self._direct is not None and written < whole:
            try:
                written += os.pwrite(self._direct, data[written:whole], offset + written)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                os.close(self._direct)  # some filesystems open a file for direct writes, and then refuse them
                self._direct = None
        return written

    def sync(self) -> None:
        """Returns when everything is on the disk. Raises as :meth:`write` does."""
        try:
            os.fsync(self._plain)
        except OSError as error:
            raise self._trouble(error) from None

    def _trouble(self, error: OSError) -> TpiError:
        if error.errno in _FULL:
            return UserError(
                f"the disk filled up while {self._path} was being written; free some space and {self._again}"
            )
        return TpiError(f"{self._path} cannot be written: {error.strerror}")

    def close(self) -> None:
        """Closes the file; may be called more than once."""
        for descriptor in (self._plain, self._direct):
            if descriptor is not None:
                os.close(descriptor)
        self._plain = self._direct = None
