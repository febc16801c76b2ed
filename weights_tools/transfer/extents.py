"""A slab's file as extents: its blocks and what lies around them, each with its checksum."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.units import MIB
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab

# Bytes that are read, sent and written at a time.
CHUNK = 4 * MIB

HEADER = "header"


class Extent(NamedTuple):
    """The bytes of a file from ``start`` up to but not including ``stop``.

    name: the block's, or HEADER for what HDF5 keeps around the blocks.
    checksum: XXH3 (64 bits, hexadecimal).
    """

    name: str
    start: int
    stop: int
    checksum: str

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


class Chunk(NamedTuple):
    """A part of an extent, of at most CHUNK bytes."""

    extent: Extent
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def extents_of(slab: Slab) -> tuple[Extent, ...]:
    """The extents of the whole file, in order. The blocks' checksums are taken from the header; the rest is read.

    Raises TpiError if the disk cannot deliver it.
    """
    try:
        return tuple(_extents(slab))
    except OSError as error:
        raise TpiError(f"slab {slab.path} cannot be read: {error.strerror}; copy it again or split again") from None


def _extents(slab: Slab) -> Iterator[Extent]:
    blocks = {block.offset: block for block in reversed(list(slab.extents))}  # the first of those at one offset
    end = 0
    with open(slab.path, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        for _, block in sorted(blocks.items()):
            yield from _between(file, end, block.offset)
            end = block.stop
            yield Extent(block.name, block.offset, end, block.checksum)
        yield from _between(file, end, length)


def _between(file, start: int, stop: int) -> Iterator[Extent]:
    if start < stop:
        yield Extent(HEADER, start, stop, checksum_of(file, start, stop))


def checksum_of(file, start: int, stop: int, moved: Callable[[], None] = lambda: None) -> str:
    """The checksum of these bytes as the file holds them now. ``moved`` is called whenever some have been read."""
    hasher, buffer = xxhash.xxh3_64(), memoryview(bytearray(min(CHUNK, stop - start)))
    file.seek(start)
    while start < stop and (count := file.readinto(buffer[: stop - start])):
        hasher.update(buffer[:count])
        start += count
        moved()
    return hasher.hexdigest()


def is_of(path: Path, extents: Sequence[Extent]) -> bool:
    """Whether the file holds these extents, by its header, which has the checksum of every block."""
    try:
        return extents_of(read_slab(path)) == tuple(extents)
    except (TpiError, OSError):
        return False


def absent_from(path: Path, extents: Sequence[Extent], moved: Callable[[], None] = lambda: None) -> tuple[Extent, ...]:
    """The extents that the file does not hold, byte for byte. Reads all of it; ``moved`` as in :func:`checksum_of`."""
    try:
        with open(path, "rb", buffering=0) as file:
            length = os.fstat(file.fileno()).st_size
            return tuple(extent for extent in extents if extent.stop > length or not _holds(file, extent, moved))
    except OSError:
        return tuple(extents)


def _holds(file, extent: Extent, moved: Callable[[], None]) -> bool:
    try:
        return checksum_of(file, extent.start, extent.stop, moved) == extent.checksum
    except OSError:  # what cannot be read is absent
        return False


def total(extents: Iterable[Extent]) -> int:
    """Bytes of all these extents."""
    return sum(extent.nbytes for extent in extents)


def chunks_of(extents: Iterable[Extent]) -> list[Chunk]:
    """The chunks of these extents, in order."""
    return [
        Chunk(extent, start, min(start + CHUNK, extent.stop))
        for extent in extents
        for start in range(extent.start, extent.stop, CHUNK)
    ]
