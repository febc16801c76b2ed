"""The pieces of a block that are not products: what is done to a row of states, and how it comes into the cache.

Vectors are known by the address of their arguments, 0 where there is none. The slow, obvious versions are in
:mod:`tpi_mpi.kernels.fallback`.
"""

from math import erf, factorial

import numpy as np

from tpi_mpi.kernels.formats import TILE
from tpi_mpi.kernels.loops.jit import helper, reordering
from tpi_mpi.kernels.loops.memory import array_at, half_bits, half_value
from tpi_mpi.kernels.loops.states import rounded
from tpi_mpi.kernels.operand import KINDS
from tpi_mpi.kernels.records.block import CLAMPED_SWIGLU, GELU_TANH, RELU, SILU

BFLOAT16, FLOAT16, FLOAT32 = (KINDS[dtype] for dtype in ("bfloat16", "float16", "float32"))

_LOG2_E, _LN_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(1 / factorial(n)) for n in range(7))
_ONE, _HALF = np.float32(1), np.float32(0.5)
_TANH_FACTOR, _TANH_CUBIC = np.float32(2 * (2 / np.pi) ** 0.5), np.float32(0.044715)
_ROOT_HALF = 0.5**0.5


@helper
def add_vector(own, vector):
    """Adds a vector to numbers (n,)."""
    if vector == 0:
        return
    arguments = array_at(vector, 2, np.int64)
    if arguments[1] == FLOAT32:
        numbers = array_at(arguments[0], len(own), np.float32)
        for i in range(len(own)):
            own[i] += numbers[i]
        return
    bits = array_at(arguments[0], len(own), np.uint16)
    if arguments[1] == BFLOAT16:
        for i in range(len(own)):
            own[i] += widened(bits[i])
    else:
        for i in range(len(own)):
            own[i] += half_value(bits[i])


@helper
def number_of(vector, index):
    """One number of a vector, which must be there."""
    arguments = array_at(vector, 2, np.int64)
    if arguments[1] == FLOAT32:
        return array_at(arguments[0], index + 1, np.float32)[index]
    bits = array_at(arguments[0], index + 1, np.uint16)[index]
    return widened(bits) if arguments[1] == BFLOAT16 else half_value(bits)


@helper
def scale(own, factor, vector, result):
    """Numbers (n,) times a factor and a vector, which must be there."""
    arguments = array_at(vector, 2, np.int64)
    if arguments[1] == FLOAT32:
        numbers = array_at(arguments[0], len(own), np.float32)
        for i in range(len(own)):
            result[i] = own[i] * factor * numbers[i]
        return
    bits = array_at(arguments[0], len(own), np.uint16)
    if arguments[1] == BFLOAT16:
        for i in range(len(own)):
            result[i] = own[i] * factor * widened(bits[i])
    else:
        for i in range(len(own)):
            result[i] = own[i] * factor * half_value(bits[i])


@helper
def widened(bits):
    """The bfloat16 with these bits."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@helper
def normalise(own, vector, eps, result):
    """The root-mean-square norm of numbers (n,), scaled by a vector."""
    variance = _squares(own) / np.float32(len(own))
    scale(own, _ONE / np.sqrt(variance + eps), vector, result)


@reordering
def _squares(own):
    total = np.float32(0)
    for i in range(len(own)):
        total += own[i] * own[i]
    return total


@helper
def rotate(own, cosines, sines):
    """Rotates pairs (i, i + half) of a head by the angles (half,) of its position, in place."""
    half = len(cosines)
    for i in range(half):
        first, second = own[i], own[half + i]
        own[i] = first * cosines[i] - second * sines[i]
        own[half + i] = second * cosines[i] + first * sines[i]


@helper
def place_in_tiles(kind, row, column, columns):
    """Where a number of a matrix is, counted in numbers, in the order of :class:`tpi_mpi.kernels.formats.Tiled`."""
    tile, lane = row // TILE, row % TILE
    if kind == BFLOAT16:
        return ((tile * columns + column) // 2 * TILE + lane) * 2 + column % 2
    return (tile * columns + column) * TILE + lane


@helper
def store_row(own, matrix, kind, row, columns):
    """Stores numbers (n,) as a row of a matrix in tiles, which has ``columns`` columns with its padding."""
    pair = 1 if kind == BFLOAT16 else 0
    first = place_in_tiles(kind, row, 0, columns)
    for i in range(len(own)):
        _store(own[i], matrix, kind, first + (i >> pair << pair) * TILE + (i & pair))


@helper
def store_column(own, matrix, kind, column, columns):
    """Stores numbers (n,) as a column of a matrix in tiles."""
    pair = 1 if kind == BFLOAT16 else 0
    for start in range(0, len(own), TILE):
        first = place_in_tiles(kind, start, column, columns)
        for i in range(min(TILE, len(own) - start)):
            _store(own[start + i], matrix, kind, first + (i << pair))


@helper
def _store(number, matrix, kind, place):
    if kind == FLOAT32:
        array_at(matrix, place + 1, np.float32)[place] = number
    elif kind == FLOAT16:
        array_at(matrix, place + 1, np.uint16)[place] = half_bits(number)
    else:
        array_at(matrix, place + 1, np.uint16)[place] = rounded(np.float32(number).view(np.uint32))


@helper
def clear_columns(matrix, kind, first, stop, rows, columns):
    """Makes columns of a matrix in tiles zero, in all of its tiles. stop: an even number."""
    words = 2 if kind == FLOAT32 else 1  # of 16 bits, in a number
    for row in range(0, rows, TILE):
        start = first
        if kind == BFLOAT16 and first % 2 == 1:  # the other half of its pair stays
            for lane in range(TILE):
                _store(np.float32(0), matrix, kind, place_in_tiles(kind, row + lane, first, columns))
            start = first + 1
        place = (row * columns + start * TILE) * words
        numbers = array_at(matrix + 2 * place, (stop - start) * TILE * words, np.uint16)
        numbers[:] = 0


@helper
def gate(gates, ups, activation, alpha, limit):
    """Replaces gates (n,) by activation(gate) * up.

    alpha, limit: of that activation, if it has them.
    """
    if activation == SILU:
        for i in range(len(gates)):
            gates[i] = gates[i] * _sigmoid(gates[i]) * ups[i]
    elif activation == RELU:
        for i in range(len(gates)):
            gates[i] = (np.float32(0) if gates[i] < 0 else gates[i]) * ups[i]
    elif activation == GELU_TANH:  # (1 + tanh x) / 2 is the sigmoid of 2 x
        for i in range(len(gates)):
            x = gates[i]
            gates[i] = x * _sigmoid(_TANH_FACTOR * (x + _TANH_CUBIC * x * x * x)) * ups[i]
    elif activation == CLAMPED_SWIGLU:
        for i in range(len(gates)):
            x, up = _at_most(gates[i], limit), -_at_most(-_at_most(ups[i], limit), limit)
            gates[i] = x * _sigmoid(alpha * x) * (up + _ONE)
    else:
        for i in range(len(gates)):
            x = gates[i]
            gates[i] = np.float32(x * 0.5 * (1.0 + erf(x * _ROOT_HALF))) * ups[i]


@helper
def _at_most(x, limit):
    """What is no number stays none."""
    return limit if x > limit else x


@helper
def _sigmoid(x):
    """Exponentials of what is not positive alone do not overflow."""
    small = exponential(-abs(x))
    return (_ONE if x >= 0 else small) / (_ONE + small)


@helper
def exponential(x):
    """The exponential of a number that is not positive, as 2^n times a polynomial; within 2e-7 of it."""
    scaled = max(x * _LOG2_E, np.float32(-126))
    whole = np.floor(scaled + _HALF)
    rest = (scaled - whole) * _LN_2
    series = _C6
    series = series * rest + _C5
    series = series * rest + _C4
    series = series * rest + _C3
    series = series * rest + _C2
    series = series * rest + _C1
    series = series * rest + _C0
    return series * np.int32((np.int32(whole) + 127) << 23).view(np.float32)
