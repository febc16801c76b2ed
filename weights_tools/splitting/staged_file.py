"""A file that is written through aligned buffers."""

import mmap
from concurrent.futures import Executor, Future, wait
from pathlib import Path

import numpy as np

from tpi_mpi.weights.slabs.extents import PAGE
from weights_tools.common.direct_file import DirectFile


class StagedFile:
    """Writes ranges of an existing file, each sequentially from a page-aligned offset.

    One buffer is filled while the other is written. The last page of a range is padded with zeros, so the next range
    must begin on a later page.

    capacity: bytes of each of the two buffers, a multiple of the page.
    threads: do the writing; errors in them are raised by a later call.
    """

    def __init__(self, path: Path, capacity: int, threads: Executor):
        self._threads = threads
        self._file = DirectFile(path, "split again")
        self._capacity = capacity
        self._buffer, self._other = mmap.mmap(-1, capacity), mmap.mmap(-1, capacity)  # aligned, for direct writes
        self._offset, self._filled = 0, 0
        self._writing: Future = threads.submit(lambda: None)

    def seek(self, offset: int) -> None:
        """Ends the current range and begins another at ``offset``."""
        self.finish()
        assert offset % PAGE == 0, f"offset {offset} is not on a page"
        self._offset = offset

    def append(self, data: np.ndarray) -> None:
        """Adds bytes, an array of uint8."""
        while len(data):
            if self._filled == self._capacity:
                self._write(self._capacity)
            now = data[: self._capacity - self._filled]
            np.frombuffer(self._buffer, np.uint8)[self._filled : self._filled + len(now)] = now
            self._filled += len(now)
            data = data[len(now) :]

    def finish(self) -> None:
        """Ends the current range: passes what is still in the buffer to a thread."""
        whole = -(-self._filled // PAGE) * PAGE
        self._buffer[self._filled : whole] = bytes(whole - self._filled)
        self._filled = whole
        if whole:
            self._write(whole)

    def sync(self) -> None:
        """Returns when everything is on the disk."""
        self.finish()
        self._writing.result()
        self._file.sync()

    def close(self) -> None:
        """Closes the file; what is still in the buffer is not written."""
        wait([self._writing])
        self._file.close()

    def _write(self, count: int) -> None:
        """Has the first ``count`` bytes, whole pages, written; the rest moves to the start of the other buffer."""
        self._writing.result()
        self._other[: self._filled - count] = self._buffer[count : self._filled]
        self._writing = self._threads.submit(self._write_out, self._buffer, count, self._offset)
        self._buffer, self._other = self._other, self._buffer
        self._offset, self._filled = self._offset + count, self._filled - count

    def _write_out(self, buffer: mmap.mmap, count: int, offset: int) -> None:
        with memoryview(buffer) as view:
            self._file.write(view[:count], offset)
