"""Blocks mapped from the slab's file: brought into memory, used in place, released."""

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.units import MIB
from tpi_mpi.kernels.formats import Tiled
from tpi_mpi.kernels.operand import Operand, Tensors, Vector
from tpi_mpi.weights import pages
from tpi_mpi.weights.slabs.extents import BlockExtent

# A block is fetched in pieces of this size, so that a fetch can be cancelled between two of them, and one piece hashed
# while the next is read.
_PIECE = 32 * MIB


def tensors_of(buffer, extent: BlockExtent, origin: int) -> Tensors:
    """The tensors of a block, as views of a buffer that begins at offset ``origin`` of the file."""
    tensors = Tensors()
    for tensor in extent.tensors:
        layout, offsets = tensor.layout, tuple(offset - origin for offset in tensor.offsets)
        if isinstance(layout, Tiled):
            tensors[tensor.name] = Operand.of(layout, buffer, offsets)
        else:
            tensors[tensor.name] = Vector.of(layout, buffer, offsets[0])
    return tensors


class SlabFile:
    """A slab opened for mapping. Closing it leaves existing mappings valid."""

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        self.hashing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hash")

    def map(self, extent: BlockExtent, verify: bool = False) -> "MappedBlock":
        """Maps a block; with ``verify``, its checksum is compared once it has arrived.

        Raises TpiError if the file ends before the block does.
        """
        return MappedBlock(self, extent, verify)

    def close(self) -> None:
        self.hashing.shutdown()
        os.close(self.descriptor)


class MappedBlock:
    """One block's byte range, mapped; :meth:`populate` brings its pages into memory.

    nbytes: size of the mapping, which starts at the page boundary at or before the block.
    tensors: the block's tensors by name, views of the mapping in their stored dtype. The mapping lasts as long
        as any of them.
    """

    def __init__(self, file: SlabFile, extent: BlockExtent, verify: bool):
        self.file = file
        self.extent = extent
        self._lead = pages.lead_of(extent.offset)
        self._first = extent.offset - self._lead
        self.nbytes = extent.nbytes + self._lead
        try:  # a private mapping, because only writable memory tells its address
            self._map = mmap.mmap(file.descriptor, self.nbytes, access=mmap.ACCESS_COPY, offset=self._first)
        except ValueError:
            raise self._unreadable("the file ends too early") from None
        self._address = pages.address_of(self._map)
        self._arrived = 0
        self._hasher = xxhash.xxh3_64() if verify else None
        self.tensors = tensors_of(self._map, extent, self._first)

    def populate(self, count: int | None = None, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Brings the next ``count`` bytes into memory, or all that are missing.

        Returns early if ``cancelled`` returns true between two pieces. Raises TpiError if the disk cannot deliver the
        bytes or if, once the last have arrived, the block does not match its checksum.
        """
        end = self.nbytes if count is None else min(self._arrived + count, self.nbytes)
        while self._arrived < end and not cancelled():
            stop = min(self._arrived + _PIECE, end)
            self._read(self._arrived, stop)
            self._hash(self._arrived, stop)
            self._arrived = stop
        if self._hasher and self._arrived == self.nbytes:
            self._compare()

    def _hash(self, start: int, stop: int) -> None:
        """Has another thread hash the piece while the next is read, so that the disk never waits."""
        if self._hasher:
            piece = memoryview(self._map)[max(start, self._lead) : stop]
            self._hashed = self.file.hashing.submit(self._hasher.update, piece)

    def _compare(self) -> None:
        self._hashed.result()
        checksum, self._hasher = self._hasher.hexdigest(), None
        if checksum != self.extent.checksum:
            raise TpiError(
                f"block {self.extent.name} of slab {self.file.path} has checksum {checksum} instead of "
                f"{self.extent.checksum}: its bytes were altered; copy the slab again or split again"
            )

    def _read(self, start: int, stop: int) -> None:
        try:
            pages.fetch(self._address + start, stop - start, self.file.descriptor, self._first + start)
        except OSError as error:
            raise self._unreadable(error.strerror) from None

    def _unreadable(self, reason: str) -> TpiError:
        return TpiError(f"block {self.extent.name} of slab {self.file.path} cannot be read: {reason}")

    def release(self) -> None:
        """Frees the memory: first the pages of the mapping, then those of the page cache behind them."""
        self.tensors = Tensors()
        pages.discard(self._address, self.nbytes)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.descriptor, self._first, self.nbytes, os.POSIX_FADV_DONTNEED)
