"""How fast this machine computes and communicates: the rates from which the lower bound of a run is computed.

Each probe is run by all ranks at the same time, as a run uses the machine.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from tpi_mpi.comm.allreduce.algorithms import Allreduce
from tpi_mpi.comm.world import World
from tpi_mpi.common.units import MIB
from tpi_mpi.kernels.linear import Linear
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.reader import open_reader

OUT_OF_CACHE = 96 * MIB
"""Bytes: more than the caches of the cores hold."""

# About how long a probe takes: of what a rank does alone, of which there are many; and of what all do together.
_SECONDS, _SECONDS_TOGETHER = 0.15, 1.0
# How often ranks do something together, at least and at most.
_LEAST, _MOST = 20, 200


def memory_rate(world: World, threads: int) -> float:
    """Bytes per second at which this many threads of this rank read memory."""
    words = np.ones(OUT_OF_CACHE // 8, np.int64)
    with open_reader(threads) as read:
        read(words[:1])  # loads the code
        return words.nbytes / _seconds(world, lambda: read(words))


def decode_rate(world: World, linear: Linear, matrices: Sequence[Sequence[Operand]], rows: int) -> float:
    """Bytes of weights and scales per second in products with ``rows`` rows, as in decoding.

    matrices: those that the same states are multiplied with, together; more bytes than caches hold.
    """
    states = {columns: np.ones((rows, columns), np.float32) for columns in {alike[0].shape[1] for alike in matrices}}
    nbytes = sum(operand.nbytes for alike in matrices for operand in alike)

    def multiply(some: Sequence[Sequence[Operand]]) -> None:
        for alike in some:
            linear.several(states[alike[0].shape[1]], alike)

    multiply(matrices[:1])  # loads the code
    return nbytes / _seconds(world, lambda: multiply(matrices))


def prompt_rate(world: World, linear: Linear, operand: Operand, rows: int) -> float:
    """Floating-point operations per second in products with ``rows`` rows, as in a prompt."""
    states = np.ones((rows, operand.shape[1]), np.float32)
    return 2 * rows * operand.layout.elements / _seconds(world, lambda: linear(states, operand))


def allreduce_seconds(world: World, allreduce: Allreduce, rows: int, width: int) -> float:
    """Seconds that one sum of partials (rows, width) over all ranks takes, as often as rank 0 has time for it."""
    partial = np.ones((rows, width), np.float32)
    allreduce.sum(partial)
    world.barrier()
    once = _timed(lambda: allreduce.sum(partial))
    times = world.broadcast(max(_LEAST, min(_MOST, int(_SECONDS_TOGETHER / (once + 1e-6)))))
    return median(_timed(lambda: allreduce.sum(partial)) for _ in range(times))


def _seconds(world: World, work: Callable[[], object]) -> float:
    """The median seconds of work that each rank repeats until its time is up.

    The first time, after which all buffers exist, counts only if it is the only one.
    """
    world.barrier()
    end, taken = time.perf_counter() + _SECONDS, []
    while not taken or time.perf_counter() < end:
        taken.append(_timed(work))
    return median(taken[1:] or taken)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
