"""Blocks mapped from the slab's file: brought into memory, used in place, let go.

Nothing here holds Python's global lock while it waits for the disk, so a thread can fetch while another computes.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import xxhash

from tpi_mpi.errors import TpiError
from tpi_mpi.slabs import BlockExtent

# From Linux 5.14 on: reads the pages of a mapping as fast as direct I/O, at next to no processor time.
_MADV_POPULATE_READ = 22
_MADV_RANDOM = 1
_MADV_DONTNEED = 4

# What the system says of pages that cannot be read from the disk.
_REASONS = {errno.EFAULT: "the disk failed, or the file ends too early"}

# A block is brought in by pieces of this size, so that a fetch can be cancelled between two of them, and one hashed
# while the next is read.
_PIECE = 4 * 1024**2

_libc = ctypes.CDLL(None, use_errno=True)  # unlike mmap.madvise, a call through ctypes releases the global lock
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def populate(address: int, length: int) -> int:
    """Reads a range of mapped memory from its file; returns 0, or the error number of the system.

    EINVAL means that the kernel does not know how.
    """
    lead = address % mmap.PAGESIZE
    failed = _libc.madvise(address - lead, length + lead, _MADV_POPULATE_READ)
    return ctypes.get_errno() if failed else 0


class SlabFile:
    """A slab opened for mapping. Closing it leaves existing mappings valid."""

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)

    def map(self, extent: BlockExtent) -> "MappedBlock":
        return MappedBlock(self, extent)

    def close(self) -> None:
        os.close(self.descriptor)


class MappedBlock:
    """One block's byte range, mapped; its pages are in memory once :meth:`populate` has returned.

    tensors: the block's tensors by name, views of the mapping in their stored dtype. The mapping lasts as long
        as any of them.
    """

    def __init__(self, file: SlabFile, extent: BlockExtent):
        self.file = file
        self.extent = extent
        self._lead = extent.offset % mmap.ALLOCATIONGRANULARITY
        self._first = extent.offset - self._lead
        self._length = extent.nbytes + self._lead
        try:  # a private mapping, because torch warns of tensors that cannot be written to
            self._map = mmap.mmap(file.descriptor, self._length, access=mmap.ACCESS_COPY, offset=self._first)
        except ValueError:
            raise self._unreadable("the file ends too early") from None
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.tensors = {tensor.name: self._view(tensor) for tensor in extent.tensors}

    def _view(self, tensor) -> torch.Tensor:
        count = tensor.nbytes // getattr(torch, tensor.dtype).itemsize
        flat = torch.frombuffer(
            self._map, dtype=getattr(torch, tensor.dtype), count=count, offset=tensor.offset - self._first
        )
        return flat.view(tensor.shape)

    def populate(self, verify: bool, cancelled: Callable[[], bool] = lambda: False) -> int:
        """Brings the whole block into memory; with ``verify``, compares it with its checksum.

        Returns the number of bytes, or 0 where ``cancelled`` answered true between two pieces. Raises TpiError
        where the disk cannot deliver them or the bytes are not those that were written.
        """
        if not verify:
            return self._bring_in(cancelled, lambda start, stop: None)
        hasher = xxhash.xxh3_64()
        # A second thread hashes each piece while the next is read: the disk never waits.
        with memoryview(self._map) as view, ThreadPoolExecutor(max_workers=1) as thread:
            count = self._bring_in(
                cancelled, lambda start, stop: thread.submit(hasher.update, view[max(start, self._lead) : stop])
            )
        if count and hasher.hexdigest() != self.extent.checksum:
            raise TpiError(
                f"block {self.extent.name} of slab {self.file.path} has checksum {hasher.hexdigest()} instead of "
                f"{self.extent.checksum}: its bytes were altered; copy the slab again or split again"
            )
        return count

    def _bring_in(self, cancelled: Callable[[], bool], arrived: Callable[[int, int], object]) -> int:
        """Reads the block by pieces, and tells ``arrived`` of each."""
        for start in range(0, self._length, _PIECE):
            if cancelled():
                return 0
            stop = min(start + _PIECE, self._length)
            self._read(start, stop)
            arrived(start, stop)
        return self.extent.nbytes

    def _read(self, start: int, stop: int) -> None:
        code = populate(self._address + start, stop - start)
        if code == errno.EINVAL:
            self._read_through(start, stop)
        elif code:
            raise self._unreadable(_REASONS.get(code) or os.strerror(code))

    def _read_through(self, start: int, stop: int) -> None:
        """Where the kernel knows no populating: fills the page cache, from which the mapping is then served."""
        buffer = bytearray(min(stop - start, 1024**2))
        position, end = self._first + start, self._first + stop
        while position < end:
            try:
                count = os.preadv(self.file.descriptor, [buffer], position)
            except OSError as error:
                raise self._unreadable(error.strerror) from error
            if count == 0:
                raise self._unreadable("the file ends too early")
            position += count

    def _unreadable(self, reason: str) -> TpiError:
        return TpiError(f"block {self.extent.name} of slab {self.file.path} cannot be read: {reason}")

    def expect_random_access(self) -> None:
        """For a block that is read by rows as they are touched: the kernel should not read ahead."""
        _libc.madvise(self._address, self._length, _MADV_RANDOM)

    def release(self) -> None:
        """Gives the memory back: the pages of the mapping, then those of the page cache behind them."""
        self.tensors = {}
        _libc.madvise(self._address, self._length, _MADV_DONTNEED)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.descriptor, self._first, self._length, os.POSIX_FADV_DONTNEED)
