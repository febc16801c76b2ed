"""Sums and exponentials in double precision, to the same bits on every CPU.

:mod:`tpi_mpi.kernels.experts.routing` says the same plainly. Nothing here may be reordered. The products that are
summed up are those of two float32, and so exact: it does not matter whether a CPU rounds them before it adds them.
"""

import numpy as np

from tpi_mpi.kernels.experts.routing import LEAST_EXPONENT, LN_2_HIGH, LN_2_LOW, LOG2_E, PARTS, SERIES
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at, half_value
from tpi_mpi.kernels.loops.pieces import BFLOAT16, FLOAT32

_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = SERIES


@helper
def add_squares(parts, numbers):
    """Adds the squares of float32 (n,) to partial sums (PARTS,): number i to sum i modulo PARTS."""
    whole = len(numbers) // PARTS * PARTS
    for start in range(0, whole, PARTS):
        for i in range(PARTS):
            number = np.float64(numbers[start + i])
            parts[i] += number * number
    for i in range(len(numbers) - whole):
        number = np.float64(numbers[whole + i])
        parts[i] += number * number


@helper
def add_products(parts, states, weights, kind):
    """Adds the products of float64 (n,), each a float32, and of stored numbers, known by their address, likewise."""
    count = len(states)
    if kind == FLOAT32:
        _add_float32(parts, states, array_at(weights, count, np.float32))
    elif kind == BFLOAT16:
        _add_bfloat16(parts, states, array_at(weights, count, np.uint16))
    else:
        _add_float16(parts, states, array_at(weights, count, np.uint16))


@helper
def _add_float32(parts, states, weights):
    whole = len(states) // PARTS * PARTS
    for start in range(0, whole, PARTS):
        for i in range(PARTS):
            parts[i] += states[start + i] * np.float64(weights[start + i])
    for i in range(len(states) - whole):
        parts[i] += states[whole + i] * np.float64(weights[whole + i])


@helper
def _add_bfloat16(parts, states, weights):
    whole = len(states) // PARTS * PARTS
    for start in range(0, whole, PARTS):
        for i in range(PARTS):
            parts[i] += states[start + i] * _wide(weights[start + i])
    for i in range(len(states) - whole):
        parts[i] += states[whole + i] * _wide(weights[whole + i])


@helper
def _wide(bits):
    return np.float64(np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32))


@helper
def _add_float16(parts, states, weights):
    whole = len(states) // PARTS * PARTS
    for start in range(0, whole, PARTS):
        for i in range(PARTS):
            parts[i] += states[start + i] * np.float64(half_value(weights[start + i]))
    for i in range(len(states) - whole):
        parts[i] += states[whole + i] * np.float64(half_value(weights[whole + i]))


@helper
def total_of(parts):
    """The sum of numbers (n,), in their order."""
    total = 0.0
    for i in range(len(parts)):
        total += parts[i]
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
