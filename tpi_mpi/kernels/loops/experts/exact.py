"""Sums and exponentials in double precision, to the same bits on every CPU.

:mod:`tpi_mpi.kernels.experts.choice` says the same plainly. Nothing here may be reordered. The products that are
summed up are those of two float32, and so exact: it does not matter whether a CPU rounds them before it adds them.
"""

import numpy as np

from tpi_mpi.kernels.experts.choice import LEAST_EXPONENT, LN_2_HIGH, LN_2_LOW, LOG2_E, PARTS, SERIES
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at, half_value
from tpi_mpi.kernels.loops.pieces import BFLOAT16, FLOAT16, FLOAT32, widened
from tpi_mpi.kernels.records.mixture import ROWS_TOGETHER
from tpi_mpi.kernels.tiles.exact import add_blocks

ROOM = 16 * PARTS
"""Numbers that there is room for in a row of states."""

_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = SERIES


@helper
def add_squares(parts, numbers):
    """Adds the squares of float32, known by address and count, to partial sums: number i to sum i modulo PARTS."""
    address, count = numbers
    sums = array_at(parts, PARTS, np.float64)
    for start in range(0, count, PARTS):
        own = array_at(address + 4 * start, PARTS, np.float32)
        if count - start >= PARTS:
            for i in range(PARTS):
                sums[i] += np.float64(own[i]) * np.float64(own[i])
        else:
            for i in range(count - start):
                sums[i] += np.float64(own[i]) * np.float64(own[i])


@helper
def add_products(parts, states, rows, weights, count, kind):
    """Adds products likewise: of rows of float64 that are float32 with ``count`` stored numbers.

    parts: address of partial sums (rows, PARTS). states: address of (rows, ROOM); one row or ROWS_TOGETHER.
    """
    blocks = count // PARTS
    if kind == FLOAT32:
        _add_blocks(FLOAT32, parts, states, rows, weights, blocks)
    elif kind == BFLOAT16:
        _add_blocks(BFLOAT16, parts, states, rows, weights, blocks)
    else:
        _add_blocks(FLOAT16, parts, states, rows, weights, blocks)
    for row in range(rows):
        sums = array_at(parts + 8 * PARTS * row, PARTS, np.float64)
        last = array_at(states + 8 * (ROOM * row + PARTS * blocks), PARTS, np.float64)
        for i in range(count - PARTS * blocks):
            sums[i] += last[i] * _weight(weights, PARTS * blocks + i, kind)


@helper
def _add_blocks(kind, parts, states, rows, weights, blocks):
    if rows == ROWS_TOGETHER:
        add_blocks(kind, ROWS_TOGETHER, parts, states, ROOM, weights, blocks)
    else:
        add_blocks(kind, 1, parts, states, ROOM, weights, blocks)


@helper
def _weight(weights, index, kind):
    if kind == FLOAT32:
        return np.float64(array_at(weights + 4 * index, 1, np.float32)[0])
    bits = array_at(weights + 2 * index, 1, np.uint16)[0]
    return np.float64(widened(bits) if kind == BFLOAT16 else half_value(bits))


@helper
def total_of(parts):
    """The sum of partial sums, in their order."""
    total, sums = 0.0, array_at(parts, PARTS, np.float64)
    for i in range(PARTS):
        total += sums[i]
    return total


@helper
def _at_least(x, least):
    """What is no number stays none."""
    return least if x < least else x


@helper
def exact_exponential(x):
    """The exponential of a number that is not positive, as 2^n times a polynomial."""
    whole = np.floor(_at_least(x * LOG2_E, LEAST_EXPONENT) + 0.5)
    rest = _at_least((x - whole * LN_2_HIGH) - whole * LN_2_LOW, -1.0)
    series = _C13
    series = series * rest + _C12
    series = series * rest + _C11
    series = series * rest + _C10
    series = series * rest + _C9
    series = series * rest + _C8
    series = series * rest + _C7
    series = series * rest + _C6
    series = series * rest + _C5
    series = series * rest + _C4
    series = series * rest + _C3
    series = series * rest + _C2
    series = series * rest + _C1
    series = series * rest + _C0
    return series * np.int64((np.int64(whole) + 1023) << 52).view(np.float64)


@helper
def exact_sigmoid(x):
    """Exponentials of what is not positive alone do not overflow."""
    small = exact_exponential(-abs(x))
    return (1.0 if x >= 0 else small) / (1.0 + small)
