"""How fast this machine multiplies and sends: the rates from which the lower bound of a run is computed.

Each probe is run by all ranks at once, as a run uses the machine.
"""

import time
from collections.abc import Callable
from statistics import median

import torch

from tpi_mpi.comm.allreduce.algorithms import Allreduce
from tpi_mpi.comm.world import World
from tpi_mpi.common.units import MIB
from tpi_mpi.measurement.rates import Rates
from tpi_mpi.model.layers import linear
from tpi_mpi.weights.slab import Slab

_SECONDS = 1.0
# More than cores keep in their caches.
_OUT_OF_CACHE = 96 * MIB


def memory_rate(world: World) -> float:
    """Bytes a second that this rank's threads read from memory."""
    values = torch.ones(_OUT_OF_CACHE // 4)
    return _OUT_OF_CACHE / _repeat(world, values.sum)


def gemv_rate(world: World, slab: Slab) -> float:
    """Bytes of weights a second that are multiplied with one row, at the shapes of the first layer."""
    weights = _weights(slab)
    states = {weight.shape[1]: torch.ones(1, weight.shape[1]) for weight in weights}
    nbytes = sum(weight.nbytes for weight in weights)
    return nbytes / _repeat(world, lambda: [linear(states[weight.shape[1]], weight) for weight in weights])


def gemm_rate(world: World, slab: Slab, rows: int) -> float:
    """Floating-point operations a second of products with so many rows."""
    weights = _weights(slab)[:8]
    states = {weight.shape[1]: torch.ones(rows, weight.shape[1]) for weight in weights}
    operations = 2 * rows * sum(weight.numel() for weight in weights)
    return operations / _repeat(world, lambda: [linear(states[weight.shape[1]], weight) for weight in weights])


def _weights(slab: Slab) -> list[torch.Tensor]:
    """Matrices of a layer's shapes, as many as do not fit into caches; of large layers some of their rows."""
    extents = [tensor for block in slab.first_layer for tensor in block.tensors if len(tensor.shape) == 2]
    total = sum(extent.nbytes for extent in extents)
    copies, part = max(1, -(-_OUT_OF_CACHE // total)), min(1.0, 2 * _OUT_OF_CACHE / total)
    shapes = [(extent.dtype, (max(1, int(part * extent.shape[0])), extent.shape[1])) for extent in extents]
    return [torch.full(shape, 0.01, dtype=getattr(torch, dtype)) for _ in range(copies) for dtype, shape in shapes]


def allreduce_seconds(world: World, allreduce: Allreduce, rows: int, width: int) -> float:
    """Seconds that the sum of so many rows over all ranks takes."""
    partial = torch.ones(rows, width)
    return _repeat(world, lambda: allreduce.sum(partial), least=20)


def measured_rates(world: World, slab: Slab, read: float | None, rows: int) -> Rates:
    """All rates of this rank. read: of its disk, measured before. rows: of a chunk of a prompt."""
    return Rates(read, memory_rate(world), gemv_rate(world, slab), gemm_rate(world, slab, rows))


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
