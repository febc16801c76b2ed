"""How fast this machine computes and communicates: the rates from which the lower bound of a run is computed.

Each probe is run by all ranks at the same time, as a run uses the machine.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from tpi_mpi.comm.allreduce.algorithms import Allreduce
from tpi_mpi.comm.world import World
from tpi_mpi.common.units import MIB
from tpi_mpi.kernels.formats import Tiled
from tpi_mpi.kernels.linear import linear
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.measurement.rates import Rates
from tpi_mpi.weights.slab import Slab

# About how long a probe takes.
_SECONDS = 1.0
# Bytes: more than the caches of the cores hold.
_OUT_OF_CACHE = 96 * MIB
# A byte of which every float and scale is a normal number, none of them large, and every code is finite.
_FILLED_WITH = 0x3C


def memory_rate(world: World) -> float:
    """Bytes per second at which this rank's threads read memory."""
    values = torch.ones(_OUT_OF_CACHE // 4)
    return _OUT_OF_CACHE / _repeat(world, values.sum)


def gemv_rate(world: World, slab: Slab) -> float:
    """The GEMV rate: bytes of weights per second that are multiplied with one row, in the shapes of the first layer."""
    weights = _weights(slab)
    states = {weight.shape[1]: torch.ones(1, weight.shape[1]) for weight in weights}
    nbytes = sum(weight.nbytes for weight in weights)
    return nbytes / _repeat(world, lambda: [linear(states[weight.shape[1]], weight) for weight in weights])


def gemm_rate(world: World, slab: Slab, rows: int) -> float:
    """The GEMM rate: floating-point operations per second, in matrix products with ``rows`` rows."""
    weights = _weights(slab)[:8]
    states = {weight.shape[1]: torch.ones(rows, weight.shape[1]) for weight in weights}
    operations = 2 * rows * sum(weight.layout.elements for weight in weights)
    return operations / _repeat(world, lambda: [linear(states[weight.shape[1]], weight) for weight in weights])


def _weights(slab: Slab) -> list[Operand]:
    """Matrices in the layouts of a layer, more than caches hold: small ones several times, of large ones some rows."""
    layouts = [tensor.layout for block in slab.first_layer for tensor in block.tensors]
    layouts = [layout for layout in layouts if isinstance(layout, Tiled)]
    total = sum(layout.nbytes for layout in layouts)
    copies, part = max(1, -(-_OUT_OF_CACHE // total)), min(1.0, 2 * _OUT_OF_CACHE / total)
    cut = [replace(layout, rows=max(1, int(part * layout.rows))) for layout in layouts]
    return [_operand(layout) for _ in range(copies) for layout in cut]


def _operand(layout: Tiled) -> Operand:
    """One with all weights alike and finite; kernels take the same time for any."""
    parts = [np.full(part.nbytes, _FILLED_WITH, np.uint8).view(part.dtype) for part in layout.parts]
    return Operand(layout, [part.reshape(like.shape) for part, like in zip(parts, layout.parts, strict=True)])


def allreduce_seconds(world: World, allreduce: Allreduce, rows: int, width: int) -> float:
    """Seconds that one sum of partials (rows, width) over all ranks takes."""
    partial = torch.ones(rows, width)
    return _repeat(world, lambda: allreduce.sum(partial), least=20)


def measured_rates(world: World, slab: Slab, read: float | None, rows: int) -> Rates:
    """All rates of this rank. read: that of its disk, measured before; or None. rows: tokens in a chunk of a prompt."""
    return Rates(read, memory_rate(world), gemv_rate(world, slab), gemm_rate(world, slab, rows))


def _repeat(world: World, work: Callable[[], object], least: int = 3) -> float:
    """The median seconds of work that all ranks do together, repeated as often as rank 0 has time for."""
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
