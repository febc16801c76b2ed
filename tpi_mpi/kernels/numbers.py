"""The door between float32 and what numbers are stored or sent as: other dtypes, or bytes in groups with a scale.

numpy has no bfloat16: its numbers lie in uint16, and the name of the dtype is kept beside them. Compiled loops convert
where there are kernels, and numpy where there are none, to the same bits.
"""

from functools import cache
from types import ModuleType

import numpy as np

from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.linear import kernels_available
from tpi_mpi.kernels.operand import KINDS, address_of
from tpi_mpi.kernels.packing import Rows, dequantize

GROUP = 128
"""Numbers that share a scale, at most, where they are bytes in groups: a float32, and then as many int8."""

_SCALE = 4
"""Bytes of a scale."""

_MOST = np.float32(127)
_SIGNLESS, _INFINITE = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
# What makes a NaN in 32 or in 16 bits a quiet one, as CPUs do when they convert it.
_QUIET, _QUIET_HALF = np.uint32(0x400000), np.uint16(0x200)


def narrow(values: np.ndarray, dtype: str, out: np.ndarray) -> None:
    """Rounds float32 to the nearest numbers of a dtype, to even at equal distances; what is too large to infinity.

    out: as many numbers as stored, contiguous.
    """
    loops, size = _loops(), values.size
    if dtype == "float32":
        out.reshape(-1)[:] = values.reshape(-1)
    elif loops is None:
        out.reshape(-1)[:] = _narrowed(values.reshape(-1), dtype)
    else:
        values = np.ascontiguousarray(values, np.float32)
        loops.NARROW.call(_place(values, 4 * size), size, _place(out, 2 * size), KINDS[dtype])


def widen(stored: np.ndarray, dtype: str, out: np.ndarray | None = None) -> np.ndarray:
    """Stored numbers of any shape in float32; without ``out``, the same array if that is what they are.

    out: contiguous float32 of the same size, which is returned.
    """
    if out is None:
        if dtype == "float32":
            return stored
        out = np.empty(stored.shape, np.float32)
    loops, size = _loops(), out.size
    if dtype == "float32" or loops is None:
        out.reshape(-1)[:] = _widened(stored, dtype).reshape(-1)
    else:
        stored = np.ascontiguousarray(stored)
        loops.WIDEN.call(_place(stored, 2 * size), size, _place(out, 4 * size), KINDS[dtype])
    return out


def add(stored: np.ndarray, dtype: str, total: np.ndarray) -> None:
    """Adds stored numbers (n,) to contiguous float32 (n,)."""
    loops, size = _loops(), total.size
    if dtype == "float32" or loops is None:
        total += _widened(stored, dtype)
    else:
        stored = np.ascontiguousarray(stored)
        loops.ADD.call(_place(stored, 2 * size), size, _place(total, 4 * size), KINDS[dtype])


def scaled_bytes(count: int, group: int = GROUP) -> int:
    """Bytes of so many numbers as bytes in groups, the last of which is filled up with zeros."""
    return -(-count // group) * (_SCALE + group)


def scale(values: np.ndarray, out: np.ndarray, group: int = GROUP) -> None:
    """Rounds float32 of any shape to bytes in groups: uint8, as many as :func:`scaled_bytes` says.

    A byte is the number divided by the group's scale, to even at equal distances; the largest of a group becomes 127.
    Where one is not finite, none of its group is.
    """
    loops, size = _loops(), values.size
    if loops is None:
        _scale(values.reshape(-1), out, group)
    else:
        values = np.ascontiguousarray(values, np.float32)
        loops.SCALE.call(_place(values, 4 * size), size, _place(out, scaled_bytes(size, group)), group)


def unscale(message: np.ndarray, out: np.ndarray, group: int = GROUP) -> np.ndarray:
    """Bytes in groups as contiguous float32 (n,), which is returned."""
    loops, size = _loops(), out.size
    if loops is None:
        out[:] = _unscaled(message, size, group)
    else:
        loops.UNSCALE.call(_place(message, scaled_bytes(size, group)), size, _place(out, 4 * size), group)
    return out


def add_scaled(message: np.ndarray, total: np.ndarray, group: int = GROUP) -> None:
    """Adds bytes in groups to contiguous float32 (n,)."""
    loops, size = _loops(), total.size
    if loops is None:
        total += _unscaled(message, size, group)
    else:
        loops.ADD_SCALED.call(_place(message, scaled_bytes(size, group)), size, _place(total, 4 * size), group)


@cache
def _loops() -> ModuleType | None:
    """The compiled functions, where there are kernels."""
    if not kernels_available():
        return None
    from tpi_mpi.kernels.compiled import functions

    return functions


def _place(array: np.ndarray, nbytes: int) -> int:
    """The address of an array, of which compiled code will read or write so many bytes."""
    assert array.flags.c_contiguous, "compiled code would go beyond the array"
    assert array.nbytes == nbytes, "the arrays do not hold as many numbers"
    if nbytes and array.flags.writeable:
        return address_of(array)
    return array.ctypes.data


def _narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    bits = values.view(np.uint32)
    none = bits & _SIGNLESS > _INFINITE
    if dtype == "float16":
        with np.errstate(over="ignore", invalid="ignore"):
            halves = values.astype(np.float16).view(np.uint16)
        return np.where(none, halves | _QUIET_HALF, halves).view(np.float16)
    even = bits >> np.uint32(16) & np.uint32(1)
    nearest = np.where(none, bits | _QUIET, bits + np.uint32(0x7FFF) + even)
    return (nearest >> np.uint32(16)).astype(np.uint16)


def _widened(stored: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float32":
        return stored
    numbers = dequantize(Rows(stored), Format(dtype))
    if dtype == "float16":
        numbers.view(np.uint32)[np.isnan(numbers)] |= _QUIET
    return numbers


def _scale(values: np.ndarray, message: np.ndarray, group: int) -> None:
    scales, levels = _parts(message, group)
    groups = np.zeros(levels.shape, np.float32)
    groups.reshape(-1)[: values.size] = values
    largest = (groups.view(np.uint32) & _SIGNLESS).max(axis=1, keepdims=True)  # of their bits: they may be NaN
    scales[:] = steps = largest.view(np.float32) / _MOST
    good = (steps > 0) & (largest < _INFINITE)
    nearest = np.rint(np.where(good, groups, 0) / np.where(good, steps, 1))
    levels[:] = np.clip(nearest, -_MOST, _MOST)


def _unscaled(message: np.ndarray, count: int, group: int) -> np.ndarray:
    scales, levels = _parts(message, group)
    with np.errstate(invalid="ignore"):  # an infinite scale times a level of 0 is NaN, as it should be
        return (scales * levels).reshape(-1)[:count]


def _parts(message: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of a message: float32 scales (groups, 1) and int8 levels (groups, group)."""
    groups = message.reshape(-1, _SCALE + group)
    return groups[:, :_SCALE].view(np.float32), groups[:, _SCALE:].view(np.int8)
