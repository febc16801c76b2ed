"""The search for the scales of groups, compiled.

Sixteen candidates lie side by side in arrays, and every inner loop runs over these: so one instruction works on all
candidates, and no sum is taken across a register. The slow search in :mod:`tpi_mpi.kernels.scales` says the same
plainly.
"""

import numpy as np

from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at, matrix_at, stack
from tpi_mpi.kernels.records.search import (
    ARGUMENTS,
    BOUNDS,
    CODES,
    COUNT,
    FINITE,
    GROUP,
    GROUPS,
    HIGH,
    LOW,
    SCALES,
    ZERO_POINTS,
    ZEROS,
)
from tpi_mpi.kernels.scales.candidates import CANDIDATES, LARGEST, SMALLEST

_F32, _I32, _I64 = np.float32, np.int32, np.int64
_ONE, _HALF = _F32(1), _F32(0.5)
_SMALLEST, _SMALLEST_NORMAL, _LARGEST = _F32(SMALLEST), _F32(2.0**-14), _F32(LARGEST)
_INFINITY, _MAGNITUDE = _I32(0x7F800000), _I32(0x7FFFFFFF)


def search(address):
    """Searches as its arguments say: :mod:`tpi_mpi.kernels.records.search`."""
    a = array_at(address, ARGUMENTS, np.int64)
    count, size = a[COUNT], a[GROUP]
    groups, codes = matrix_at(a[GROUPS], count, size, _F32), matrix_at(a[CODES], count, size, np.uint8)
    bounds, low, high = (
        array_at(a[BOUNDS], 3, _F32),
        array_at(a[LOW], CANDIDATES, _F32),
        array_at(a[HIGH], CANDIDATES, _F32),
    )
    scales, zeros = array_at(a[SCALES], count, _F32), array_at(a[ZEROS], count, _F32)
    tried = a[ZERO_POINTS] != 0, bounds[0], bounds[1], bounds[2], low, high
    a[FINITE] = _search_scales(groups, *tried, codes, scales, zeros)


@helper
def _search_scales(groups, zero_points, first, last, zero, low, high, codes, scales, zeros):
    """Fills codes (G, group) of uint8, scales and zeros (G,) of float32 from groups (G, group) of float32.

    Returns whether all numbers are finite; if not, the rest is undefined.
    The other arguments are those of Candidates, in its order. The length of a group is a multiple of four.
    """
    bits = groups.view(np.int32)
    scale, inverse, errors = (
        array_at(stack(CANDIDATES), CANDIDATES, _F32),
        array_at(stack(CANDIDATES), CANDIDATES, _F32),
        array_at(stack(CANDIDATES), CANDIDATES, _F32),
    )
    zero_point = array_at(stack(CANDIDATES), CANDIDATES, _F32)
    least, most = array_at(stack(CANDIDATES), CANDIDATES, _F32), array_at(stack(CANDIDATES), CANDIDATES, _F32)
    zero_point[:], least[:], most[:] = zero, first - zero, last - zero
    for k in range(len(groups)):
        lowest, highest, finite = _range(bits[k])
        if not finite:
            return False
        empty = lowest == highest
        if zero_points:
            _propose(lowest, highest, _ONE, low, high, scale)
            _invert(scale, inverse)
            _place_zero(lowest, low, inverse, first, last, zero_point, least, most)
        else:
            sign = _ONE if -lowest >= highest else -_ONE
            _propose(-max(-lowest, highest), _F32(0), sign, low, high, scale)
            _invert(scale, inverse)
        _sum_errors(groups[k], scale, inverse, least, most, errors)
        best = _least(errors)
        _encode(groups[k], inverse[best], least[best], most[best], zero_point[best], codes[k])
        scales[k] = _F32(0) if empty else scale[best]
        zeros[k] = zero_point[best]
    return True


@helper
def _range(bits):
    """The lowest and the highest of some numbers and 0, from their bits, and whether all of them are finite.

    By integers, whose order does not depend on the way, so that the compiler may take several at a time.
    """
    lowest, highest = _I32(0), _I32(0)
    for i in range(len(bits)):
        ordered = _ordered(bits[i])
        lowest, highest = min(lowest, ordered), max(highest, ordered)
    return (
        _number(_ordered(lowest)),
        _number(highest),
        highest < _INFINITY and _ordered(lowest) & _MAGNITUDE < _INFINITY,
    )


@helper
def _ordered(bits):
    """Integers in the order of the numbers that these are the bits of; its own inverse."""
    return _I32(bits ^ ((bits >> _I32(31)) & _MAGNITUDE))


@helper
def _number(bits):
    return _I32(bits).view(np.float32)


@helper
def _bits(number):
    return _F32(number).view(np.int32)


@helper
def _propose(lowest, highest, sign, low, high, scale):
    for c in range(CANDIDATES):
        scale[c] = _as_float16(highest * high[c] - lowest * low[c]) * sign


@helper
def _as_float16(size):
    """A size within float16's range, rounded to the nearest number of that type, ties to even."""
    size = min(max(size, _SMALLEST), _LARGEST)
    bits = _bits(size)
    normal = _number((bits + _I32(0xFFF) + ((bits >> _I32(13)) & _I32(1))) & ~_I32(0x1FFF))
    return normal if size >= _SMALLEST_NORMAL else (size + _HALF) - _HALF


@helper
def _invert(scale, inverse):
    for c in range(CANDIDATES):
        inverse[c] = _ONE / scale[c]


@helper
def _place_zero(lowest, low, inverse, first, last, zero_point, least, most):
    """Zero points, and the range of the codes about them."""
    span = last - first
    for c in range(CANDIDATES):
        zero_point[c] = first + min(np.rint(-lowest * low[c] * span * inverse[c]), span)
    for c in range(CANDIDATES):
        least[c] = first - zero_point[c]
    for c in range(CANDIDATES):
        most[c] = last - zero_point[c]


@helper
def _sum_errors(group, scale, inverse, least, most, errors):
    """The squared error of a group under each candidate."""
    for c in range(CANDIDATES):
        errors[c] = _F32(0)
    for i in range(0, len(group), 4):
        one, two, three, four = group[i], group[i + 1], group[i + 2], group[i + 3]
        for c in range(CANDIDATES):
            first = _miss(one, scale[c], inverse[c], least[c], most[c])
            second = _miss(two, scale[c], inverse[c], least[c], most[c])
            third = _miss(three, scale[c], inverse[c], least[c], most[c])
            fourth = _miss(four, scale[c], inverse[c], least[c], most[c])
            errors[c] += (first + second) + (third + fourth)


@helper
def _miss(value, scale, inverse, least, most):
    missed = value - _step(value, inverse, least, most) * scale
    return missed * missed


@helper
def _step(value, inverse, least, most):
    """The code less the zero point."""
    return min(max(np.rint(value * inverse), least), most)


@helper
def _least(errors):
    """The first candidate of least error: errors are not negative, so their bits have their order."""
    best = _I64(0x7FFFFFFFFFFFFFFF)
    for c in range(CANDIDATES):
        best = min(best, _I64(_bits(errors[c])) * CANDIDATES + c)
    return best % CANDIDATES


@helper
def _encode(group, inverse, least, most, zero_point, codes):
    for i in range(len(group)):
        codes[i] = np.uint8(_I32(_step(group[i], inverse, least, most) + zero_point))
