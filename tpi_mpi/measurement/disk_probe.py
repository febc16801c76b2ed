"""How fast a disk reads: a slab's file, or a scratch file where there is no slab yet."""

import errno
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.units import MIB, format_size
from tpi_mpi.weights.slab import PAGE, Slab

_SECONDS = 1.0
# What comes in the first part of that is not counted: of what was saved up while the disk was idle, a long run sees
# little.
_BURST = 0.25
# Ways to read directly that were the fastest on one disk or another: (bytes of a read, threads).
_READERS = ((4 * MIB, 1), (16 * MIB, 1), (16 * MIB, 2), (64 * MIB, 1))
_SCRATCH_BYTES = 256 * MIB
_SCRATCH_PIECE = 4 * MIB


@dataclass(frozen=True)
class Readable:
    """A file that is open for direct reads, and the ranges of it that are read: (start, stop), whole pages."""

    descriptor: int
    ranges: Sequence[tuple[int, int]]


def slab_rate(world: World, slab: Slab) -> float:
    """Bytes a second that a plain reader gets of this rank's slab; see :func:`read_rate`."""
    with slab_file(slab) as readable:
        return read_rate(world, readable)


@contextmanager
def slab_file(slab: Slab) -> Iterator[Readable]:
    """The blocks of a slab, dropped from the page cache."""
    drop_from_cache(slab.path)
    descriptor = _open(slab.path)
    try:
        ends = {extent.offset: extent.offset + -(-extent.nbytes // PAGE) * PAGE for extent in slab.sweep.values()}
        yield Readable(descriptor, list(ends.items()))
    finally:
        os.close(descriptor)


@contextmanager
def scratch_file(directory: Path) -> Iterator[Readable]:
    """A file of random bytes in the directory, or where that is yet to be made in the nearest one above it.

    Its name is gone before it is read, so that nothing is left of it. Raises UserError where it cannot be written.
    """
    place = next(parent for parent in (directory.resolve(), *directory.resolve().parents) if parent.is_dir())
    try:
        descriptor, nbytes = _write_scratch(place)
    except OSError as error:
        raise UserError(f"no scratch file can be written to {place} ({error}); its disk is not measured") from None
    try:
        yield Readable(descriptor, [(0, nbytes)])
    finally:
        os.close(descriptor)


def _write_scratch(place: Path) -> tuple[int, int]:
    """A descriptor of the file, and its bytes."""
    nbytes = min(_SCRATCH_BYTES, shutil.disk_usage(place).free // 2 // _SCRATCH_PIECE * _SCRATCH_PIECE)
    if nbytes == 0:
        raise OSError(errno.ENOSPC, f"of its disk less than {format_size(2 * _SCRATCH_PIECE)} are free")
    with tempfile.NamedTemporaryFile(dir=place, prefix=".tpi_mpi-scratch-") as file:
        for _ in range(0, nbytes, _SCRATCH_PIECE):
            file.write(os.urandom(_SCRATCH_PIECE))  # nothing that a disk could make smaller
        file.flush()
        drop_from_cache(Path(file.name))
        return _open(Path(file.name)), nbytes


def read_rate(world: World, readable: Readable | None) -> float | None:
    """Bytes a second that a plain reader gets of this rank's file: the best of a few, each on all ranks at once.

    Reads directly into huge pages that were touched beforehand, so that neither the page cache nor page faults
    cost anything. On filesystems without direct reads, through the page cache. A rank without a file waits for the
    others.
    """
    rates = []
    for index, (piece, threads) in enumerate(_READERS):
        world.barrier()
        if readable:
            rates.append(_read(readable, piece, threads, index / len(_READERS)))
    return max(rates, default=None)


def drop_from_cache(path: Path) -> None:
    """Makes the next reads of a file cold; pages that are mapped somewhere stay."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _read(readable: Readable, piece: int, threads: int, start: float) -> float:
    """Reads range after range for a second, in pieces dealt to threads that do not wait for each other.

    start: where in the file to begin, so that no cache beyond this machine's helps the second of two.
    """
    pieces = [(at, min(at + piece, end)) for begin, end in readable.ranges for at in range(begin, end, piece)]
    buffers, turns = [_huge_buffer(piece) for _ in range(threads)], count(int(start * len(pieces)))
    deadline = time.perf_counter() + _SECONDS

    def work(buffer: mmap.mmap) -> list[tuple[float, int]]:
        arrived = []
        with memoryview(buffer) as view:
            while time.perf_counter() < deadline:
                first, last = pieces[next(turns) % len(pieces)]
                nbytes = os.preadv(readable.descriptor, [view[: last - first]], first)
                arrived.append((time.perf_counter(), nbytes))
        return arrived

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        arrived = sorted(chain(*pool.map(work, buffers)))
    return steady_rate(began, arrived)


def steady_rate(began: float, arrived: Sequence[tuple[float, int]]) -> float:
    """Bytes a second of what arrived, (when, bytes) each, from the end of the first burst on, if anything did."""
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
