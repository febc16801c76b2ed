"""How fast a disk reads: from a slab, or from a scratch file where there is no slab yet."""

import errno
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.threads import threads
from tpi_mpi.common.units import MIB, format_size
from tpi_mpi.weights.patience import Patience
from tpi_mpi.weights.slabs.extents import PAGE
from tpi_mpi.weights.slabs.slab import Slab

# How long each way to read is tried.
_SECONDS = 1.0
# The first part of that time is not counted: while idle, some disks save up for a burst, of which a long run sees
# little.
_BURST = 0.25
# Ways to read directly, each the fastest on one disk or another: (bytes per read, threads).
_READERS = ((4 * MIB, 1), (16 * MIB, 1), (16 * MIB, 2), (64 * MIB, 1))
_SCRATCH_BYTES = 256 * MIB
_SCRATCH_PIECE = 4 * MIB


@dataclass(frozen=True)
class Readable:
    """A file open for direct reads, and the ranges to read from it: (start, stop) in bytes, whole pages."""

    path: Path
    descriptor: int
    ranges: Sequence[tuple[int, int]]


def slab_rate(world: World, slab: Slab, patience: float) -> float:
    """Bytes per second at which a plain reader reads this rank's slab; see :func:`read_rate`."""
    with slab_file(slab) as readable:
        return read_rate(world, readable, patience)


@contextmanager
def slab_file(slab: Slab) -> Iterator[Readable]:
    """The blocks and experts of a slab, which is dropped from the page cache. Raises OSError if it cannot be opened."""
    drop_from_cache(slab.path)
    descriptor = _open(slab.path)
    try:
        ends = {extent.offset: extent.offset + -(-extent.nbytes // PAGE) * PAGE for extent in slab.sweep.values()}
        experts = dict(chain(*(own.ranges() for own in slab.experts.values())))
        yield Readable(slab.path, descriptor, list((ends | experts).items()))
    finally:
        os.close(descriptor)


@contextmanager
def scratch_file(directory: Path) -> Iterator[Readable]:
    """A file of random bytes in the directory or, if that does not exist yet, in the nearest one above it that does.

    It is unlinked before it is read, so that nothing is left behind. Raises UserError if it cannot be written.
    """
    place = next(parent for parent in (directory.resolve(), *directory.resolve().parents) if parent.is_dir())
    try:
        descriptor, nbytes = _write_scratch(place)
    except OSError as error:
        raise UserError(f"no scratch file can be written to {place} ({error}); the disk is not measured") from None
    try:
        yield Readable(place, descriptor, [(0, nbytes)])
    finally:
        os.close(descriptor)


def _write_scratch(place: Path) -> tuple[int, int]:
    """The file's descriptor, and its size in bytes. Raises OSError if it cannot be written."""
    nbytes = min(_SCRATCH_BYTES, shutil.disk_usage(place).free // 2 // _SCRATCH_PIECE * _SCRATCH_PIECE)
    if nbytes == 0:
        raise OSError(errno.ENOSPC, f"less than {format_size(2 * _SCRATCH_PIECE)} of its disk is free")
    with tempfile.NamedTemporaryFile(dir=place, prefix=".tpi_mpi-scratch-") as file:
        for _ in range(0, nbytes, _SCRATCH_PIECE):
            file.write(os.urandom(_SCRATCH_PIECE))  # which no disk can compress
        file.flush()
        drop_from_cache(Path(file.name))
        return _open(Path(file.name)), nbytes


def read_rate(world: World, readable: Readable | None, patience: float) -> float | None:
    """Bytes per second at which a plain reader reads this rank's file: the fastest of several ways.

    Called by all ranks together, which read at the same time; a rank without a file waits for the others, and returns
    None. Reads go directly into huge pages that were touched beforehand, so that neither the page cache nor page
    faults cost anything; on filesystems without direct reads, they go through the page cache.

    patience: seconds after which a disk that delivers nothing is an error. Raises DiskHung then.
    """
    rates = []
    for index, (piece, readers) in enumerate(_READERS):
        world.barrier()
        if readable:
            rates.append(_read(readable, piece, readers, index / len(_READERS), Patience(patience)))
    return max(rates, default=None)


def drop_from_cache(path: Path) -> None:
    """Makes the next reads of a file cold, except for pages that some process has mapped."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _read(readable: Readable, piece: int, readers: int, start: float, patience: Patience) -> float:
    """Bytes per second, reading range after range in pieces, on threads that do not wait for each other.

    piece: bytes per read. start: where to begin, as a fraction of all pieces: a different place for each try, so that
    no cache outside this machine (a host's, a controller's) makes the later ones faster.
    """
    pieces = [(at, min(at + piece, end)) for begin, end in readable.ranges for at in range(begin, end, piece)]
    buffers, turns = [_huge_buffer(piece) for _ in range(readers)], count(int(start * len(pieces)))
    deadline = time.perf_counter() + _SECONDS

    def work(buffer: mmap.mmap) -> list[tuple[float, int]]:
        arrived = []
        with memoryview(buffer) as view:
            while not arrived or time.perf_counter() < deadline:
                first, last = pieces[next(turns) % len(pieces)]
                nbytes = os.preadv(readable.descriptor, [view[: last - first]], first)
                arrived.append((time.perf_counter(), nbytes))
                patience.moved()
        return arrived

    began = time.perf_counter()
    with threads(readers, "read") as pool:
        reading = [pool.submit(work, buffer) for buffer in buffers]
        while wait(reading, patience.interval).not_done:
            patience.check(str(readable.path))
    return steady_rate(began, sorted(chain(*(future.result() for future in reading))))


def steady_rate(began: float, arrived: Sequence[tuple[float, int]]) -> float:
    """Bytes per second of the arrivals, (when, bytes) in order of time, without those of the first burst."""
    end = arrived[-1][0]
    settled = began + _BURST * (end - began)
    since = max((when for when, _ in arrived[:-1] if when <= settled), default=began)
    return sum(nbytes for when, nbytes in arrived if when > since) / (end - since)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, os.O_RDONLY)


def _huge_buffer(nbytes: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    buffer[:: mmap.PAGESIZE] = bytes(len(buffer[:: mmap.PAGESIZE]))
    return buffer
