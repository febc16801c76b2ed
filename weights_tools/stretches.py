"""A slab's file as stretches: its blocks and what lies around them, each with its checksum."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import xxhash

from tpi_mpi.errors import UserError
from tpi_mpi.slabs import Slab
from tpi_mpi.units import MIB

# What is read, sent and written at once.
CHUNK = 4 * MIB

HEADER = "header"


class Stretch(NamedTuple):
    """The bytes of a file from ``start`` up to ``stop``.

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
    """A part of a stretch, at most CHUNK bytes."""

    stretch: Stretch
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def stretches_of(slab: Slab) -> tuple[Stretch, ...]:
    """The whole file in order. Reads what lies around the blocks; the blocks' checksums are those in the header."""
    extents = {extent.offset: extent for extent in reversed(slab.blocks.values())}  # the first of those that share one
    found, end = [], 0
    with open(slab.path, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        for _, extent in sorted(extents.items()):
            found += _between(file, end, extent.offset)
            end = extent.offset + extent.nbytes
            found.append(Stretch(extent.name, extent.offset, end, extent.checksum))
        found += _between(file, end, length)
    return tuple(found)


def _between(file, start: int, stop: int) -> list[Stretch]:
    return [Stretch(HEADER, start, stop, checksum_of(file, start, stop))] if start < stop else []


def checksum_of(file, start: int, stop: int) -> str:
    """The checksum of what a file holds there now."""
    hasher, buffer = xxhash.xxh3_64(), memoryview(bytearray(min(CHUNK, stop - start)))
    file.seek(start)
    while start < stop and (count := file.readinto(buffer[: stop - start])):
        hasher.update(buffer[:count])
        start += count
    return hasher.hexdigest()


def is_of(path: Path, stretches: Sequence[Stretch]) -> bool:
    """Whether the file's header, which has the checksum of every block, says that it holds these stretches."""
    try:
        return stretches_of(Slab.open(path)) == tuple(stretches)
    except (UserError, OSError):
        return False


def absent_from(path: Path, stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Those of the stretches that the file does not hold byte for byte. Reads all of it."""
    try:
        with open(path, "rb", buffering=0) as file:
            length = os.fstat(file.fileno()).st_size
            return tuple(stretch for stretch in stretches if stretch.stop > length or not _holds(file, stretch))
    except OSError:
        return tuple(stretches)


def _holds(file, stretch: Stretch) -> bool:
    try:
        return checksum_of(file, stretch.start, stretch.stop) == stretch.checksum
    except OSError:  # what the disk cannot read is not there
        return False


def total(stretches: Iterable[Stretch]) -> int:
    return sum(stretch.nbytes for stretch in stretches)


def chunks_of(stretches: Iterable[Stretch]) -> list[Chunk]:
    return [
        Chunk(stretch, start, min(start + CHUNK, stretch.stop))
        for stretch in stretches
        for start in range(stretch.start, stretch.stop, CHUNK)
    ]
