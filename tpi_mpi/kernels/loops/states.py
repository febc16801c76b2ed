"""States, the other factor of a product, put in the order and the types in which kernels read them.

Rows are taken ``height`` at a time; what is left of them at the end is filled up to a power of two with rows of zeros.
The rows of each such pack lie together, input by input; the arguments of the tiles tell the shapes.
"""

from collections.abc import Callable

import numpy as np

from tpi_mpi.kernels.formats import UNIT
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at, stack
from tpi_mpi.kernels.records.product import (
    ARGUMENTS,
    CODE_OFFSET,
    COLUMNS,
    GROUPS,
    HEIGHT,
    INPUTS,
    LEAD,
    OFFSETS,
    ORDERED,
    ROWS,
    STATES,
    STATES_STEP,
    STEPS,
    SUMS,
)
from tpi_mpi.kernels.tiles.intrinsics import round_group


@helper
def pack_height(rows, height):
    """The rows of the next pack, of ``rows`` that are left: ``height``, or the least power of two that holds them."""
    if rows >= height:
        return height
    size = 1
    while size < rows:
        size *= 2
    return size


@helper
def _pack(a, row, dtype, size_of_number):
    """How many states' rows the pack has that begins with this one, how many rows with its zeros, and its place."""
    count = min(a[ROWS] - row, a[HEIGHT])
    size = pack_height(count, a[HEIGHT])
    target = array_at(a[ORDERED] + size_of_number * row * a[INPUTS], size * a[INPUTS], dtype)
    if count < size or a[COLUMNS] < a[INPUTS]:
        target[:] = 0
    return count, size, target


def order_floats(first, stop, address):
    """Puts the packs from ``first`` up to ``stop`` in the order (inputs, rows of the pack)."""
    a = array_at(address, ARGUMENTS, np.int64)
    columns, height = a[COLUMNS], a[HEIGHT]
    for row in range(first * height, min(stop * height, a[ROWS]), height):
        count, size, target = _pack(a, row, np.float32, 4)
        for r in range(count):
            own = array_at(a[STATES] + (row + r) * a[STATES_STEP], columns, np.float32)
            start = a[LEAD] * size + r
            for k in range(columns):  # an assignment of slices would allocate memory
                target[start + k * size] = own[k]


def order_rounded(first, stop, address):
    """The same in bfloat16 and in the order (inputs / 2, rows of the pack, 2).

    Only plain formats come here, which have no lead.
    """
    a = array_at(address, ARGUMENTS, np.int64)
    columns, height = a[COLUMNS], a[HEIGHT]
    for row in range(first * height, min(stop * height, a[ROWS]), height):
        count, size, target = _pack(a, row, np.uint16, 2)
        for r in range(count):
            own = array_at(a[STATES] + (row + r) * a[STATES_STEP], columns, np.uint32)
            for k in range(columns):
                target[(k // 2 * size + r) * 2 + k % 2] = rounded(own[k])


@helper
def rounded(bits):
    """The bits of the nearest bfloat16, of those of a float32; to even at equal distances."""
    if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
        return np.uint16(bits >> np.uint32(16) | np.uint32(0x40))
    even = bits >> np.uint32(16) & np.uint32(1)
    return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + even) >> np.uint32(16))


def order_bytes_in(group: int, planes: int) -> Callable:
    """What does the same in bytes, for one size of groups, in the order (inputs / 32, rows of the pack, planes, 32)."""

    def order_bytes(first, stop, address):
        a = array_at(address, ARGUMENTS, np.int64)
        height, columns, units = a[HEIGHT], a[COLUMNS], a[INPUTS] // UNIT
        padded = array_at(stack(group), group, np.float32)
        for row in range(first * height, min(stop * height, a[ROWS]), height):
            count = min(a[ROWS] - row, height)
            size = pack_height(count, height)
            for place in range(size * a[GROUPS]):
                g, r = place // size, place % size
                start = g * group - a[LEAD]
                states = a[STATES] + (row + r) * a[STATES_STEP]
                present = columns if r < count else 0  # else it is a row of zeros
                source = states + 4 * start
                if start < 0 or start + group > present:
                    source = _padded(states, start, present, padded)
                unit = row * units + g * group // UNIT * size + r
                at = row * a[GROUPS] + place
                round_group(
                    group,
                    planes,
                    source,
                    a[ORDERED] + unit * planes * UNIT,
                    size * planes * UNIT,
                    a[STEPS] + 4 * at,
                    a[OFFSETS] + 4 * at * planes,
                    a[SUMS] + 4 * at,
                    a[CODE_OFFSET],
                )

    return order_bytes


@helper
def _padded(states, start, count, padded):
    """Copies the states from ``start`` on, of a row that has ``count``; zeros where there are none."""
    row = array_at(states, count, np.float32)
    for i in range(len(padded)):
        padded[i] = row[start + i] if 0 <= start + i < count else np.float32(0)
    return padded.ctypes.data
