"""Numbers between float32 and what they are stored or sent as: bfloat16, float16, or bytes in groups with a scale.

Each function is given the addresses of arrays, and how many numbers they hold. The slow, obvious versions are in
:mod:`tpi_mpi.kernels.numbers`.
"""

import numpy as np

from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at, half_bits, half_value
from tpi_mpi.kernels.loops.states import rounded
from tpi_mpi.kernels.operand import KINDS

_BFLOAT16 = KINDS["bfloat16"]

_SCALE = 4
"""Bytes of a group's scale, which is in front of its levels."""

_MOST = np.float32(127)
_SIGNLESS, _INFINITE = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)


def narrow(values, count, target, kind):
    """Rounds float32 to the nearest number of 16 bits, to even at equal distances."""
    source, bits = array_at(values, count, np.float32), array_at(values, count, np.uint32)
    result = array_at(target, count, np.uint16)
    for i in range(count):
        result[i] = rounded(bits[i]) if kind == _BFLOAT16 else half_bits(source[i])


def widen(stored, count, target, kind):
    """Makes numbers of 16 bits float32."""
    source, result = array_at(stored, count, np.uint16), array_at(target, count, np.float32)
    for i in range(count):
        result[i] = _value(source[i], kind)


def add(stored, count, total, kind):
    """Adds numbers of 16 bits to float32."""
    source, result = array_at(stored, count, np.uint16), array_at(total, count, np.float32)
    for i in range(count):
        result[i] += _value(source[i], kind)


@helper
def _value(bits, kind):
    return np.uint32(bits << 16).view(np.float32) if kind == _BFLOAT16 else half_value(bits)


def scale(values, count, message, group):
    """Rounds float32 to bytes, group by group; the last group is filled up with zeros."""
    for first in range(0, count, group):
        size = min(group, count - first)
        source, bits = array_at(values + 4 * first, size, np.float32), array_at(values + 4 * first, size, np.uint32)
        scales, levels = _record(message, first, group)
        largest = np.uint32(0)
        for i in range(size):
            largest = max(largest, np.uint32(bits[i] & _SIGNLESS))  # of their bits, since nothing compares with NaN
        step = np.uint32(largest).view(np.float32) / _MOST
        scales[0] = step
        if step == 0 or largest >= _INFINITE:
            levels[:] = 0
            continue
        for i in range(size):
            levels[i] = np.int32(np.rint(max(-_MOST, min(_MOST, source[i] / step))))
        levels[size:] = 0


def unscale(message, count, target, group):
    """Makes bytes in groups float32."""
    for first in range(0, count, group):
        size = min(group, count - first)
        result = array_at(target + 4 * first, size, np.float32)
        scales, levels = _record(message, first, group)
        for i in range(size):
            result[i] = scales[0] * np.float32(levels[i])


def add_scaled(message, count, total, group):
    """Adds bytes in groups to float32."""
    for first in range(0, count, group):
        size = min(group, count - first)
        result = array_at(total + 4 * first, size, np.float32)
        scales, levels = _record(message, first, group)
        for i in range(size):
            result[i] += scales[0] * np.float32(levels[i])


@helper
def _record(message, first, group):
    """The scale (1,) and the levels of the group that begins with a number."""
    record = message + first // group * (_SCALE + group)
    return array_at(record, 1, np.float32), array_at(record + _SCALE, group, np.int8)
