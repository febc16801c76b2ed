"""How fast this machine reads, multiplies and sends: the rates from which the floor of a run is computed.

Each probe is run by all ranks at once, as a run uses the machine.
"""

import errno
import mmap
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from statistics import median

import torch

from tpi_mpi.allreduce import Allreduce
from tpi_mpi.layers import linear
from tpi_mpi.parallel import World
from tpi_mpi.slabs import PAGE, BlockExtent, Slab
from tpi_mpi.units import MIB

_SECONDS = 1.0
# Ways to read directly that were the fastest on one disk or another: (bytes of a read, threads).
_READERS = ((4 * MIB, 1), (16 * MIB, 1), (16 * MIB, 2), (64 * MIB, 1))
# More than processors keep in their caches.
_OUT_OF_CACHE = 96 * MIB


def read_rate(world: World, slab: Slab) -> float:
    """Bytes a second that a plain reader gets of this rank's slab: the best of a few, each on all ranks at once.

    Reads directly into huge pages that were touched beforehand, so that neither the page cache nor page faults
    cost anything. On filesystems without direct reads, through the page cache, from which the file is dropped first.
    """
    extents = list(slab.sweep.values())
    drop_from_cache(slab)
    rates = []
    for index, (piece, threads) in enumerate(_READERS):
        world.barrier()
        rates.append(_read(slab, extents, piece, threads, index / len(_READERS)))
    return max(rates)


def drop_from_cache(slab: Slab) -> None:
    """Makes the next reads of a slab cold; pages that are mapped somewhere stay."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(slab.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _read(slab: Slab, extents: Sequence[BlockExtent], piece: int, threads: int, start: float) -> float:
    """Reads block after block for a second, in pieces dealt to threads that do not wait for each other.

    start: where in the slab to begin, so that no cache beyond this machine's helps the second of two.
    """
    ends = {extent.offset: extent.offset + -(-extent.nbytes // PAGE) * PAGE for extent in extents}
    pieces = [(at, min(at + piece, end)) for begin, end in ends.items() for at in range(begin, end, piece)]
    buffers = [_huge_buffer(piece) for _ in range(threads)]
    descriptor, turns = _open(slab), count(int(start * len(pieces)))
    deadline = time.perf_counter() + _SECONDS

    def work(buffer: mmap.mmap) -> int:
        total = 0
        with memoryview(buffer) as view:
            while time.perf_counter() < deadline:
                first, last = pieces[next(turns) % len(pieces)]
                total += os.preadv(descriptor, [view[: last - first]], first)
        return total

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(work, buffers))
    os.close(descriptor)
    return total / (time.perf_counter() - began)


def _open(slab: Slab) -> int:
    try:
        return os.open(slab.path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(slab.path, os.O_RDONLY)


def _huge_buffer(nbytes: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    buffer[:: mmap.PAGESIZE] = bytes(len(buffer[:: mmap.PAGESIZE]))
    return buffer


def memory_rate(world: World) -> float:
    """Bytes a second that this rank's threads read from memory."""
    values = torch.ones(_OUT_OF_CACHE // 4)
    return _OUT_OF_CACHE / _repeat(world, values.sum)


def vector_rate(world: World, slab: Slab, blocks: Sequence[str]) -> float:
    """Bytes of weights a second that products with one row take, at the shapes of the first layer."""
    weights = _weights(slab, blocks)
    states = {weight.shape[1]: torch.ones(1, weight.shape[1]) for weight in weights}
    nbytes = sum(weight.nbytes for weight in weights)
    return nbytes / _repeat(world, lambda: [linear(states[weight.shape[1]], weight) for weight in weights])


def prompt_rate(world: World, slab: Slab, blocks: Sequence[str], rows: int) -> float:
    """Floating-point operations a second of products with so many rows."""
    weights = _weights(slab, blocks)[:8]
    states = {weight.shape[1]: torch.ones(rows, weight.shape[1]) for weight in weights}
    operations = 2 * rows * sum(weight.numel() for weight in weights)
    return operations / _repeat(world, lambda: [linear(states[weight.shape[1]], weight) for weight in weights])


def _weights(slab: Slab, blocks: Sequence[str]) -> list[torch.Tensor]:
    """Matrices of a layer's shapes, as many as do not fit into caches."""
    extents = [tensor for name in blocks for tensor in slab.blocks[name].tensors if len(tensor.shape) == 2]
    copies = max(1, -(-_OUT_OF_CACHE // sum(extent.nbytes for extent in extents)))
    return [
        torch.full(extent.shape, 0.01, dtype=getattr(torch, extent.dtype)) for _ in range(copies) for extent in extents
    ]


def allreduce_seconds(world: World, allreduce: Allreduce, rows: int, width: int) -> float:
    """Seconds that the sum of so many rows over all ranks takes."""
    partial = torch.ones(rows, width)
    return _repeat(world, lambda: allreduce.sum(partial), least=20)


def _repeat(world: World, work: Callable[[], object], least: int = 3) -> float:
    """The median time of some work that all ranks do together, as often as rank 0 finds time for."""
    work()
    world.barrier()
    began = time.perf_counter()
    work()
    times = world.broadcast(max(least, min(200, int(_SECONDS / (time.perf_counter() - began + 1e-6)))))
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken)
