"""Groups of parts: work of several kernels, or with several arguments, whose items threads claim as those of one."""

import numpy as np

from tpi_mpi.kernels.loops.atomics import call
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at
from tpi_mpi.kernels.records import mixture
from tpi_mpi.kernels.records.job import (
    ARGUMENTS,
    BYTES,
    FIRST_ITEM,
    GROUP,
    ITEMS,
    KERNEL,
    PART,
    PARTS,
    STEPS,
    TOGETHER,
)

# Bytes of weights that a thread claims at a time, at most, and the pieces that there are for each thread, at least; as
# in tpi_mpi.kernels.compiled.prepared.
_CHUNK, _PIECES = 160 * 1024, 3


@helper
def group_at(m, step):
    return array_at(m[mixture.GROUPS] + m[mixture.GROUP_BYTES] * step, GROUP, np.int64)


@helper
def _part_at(group, index):
    return array_at(group + 8 * (GROUP + PART * index), PART, np.int64)


@helper
def clear_groups(m):
    for step in range(STEPS):
        group_at(m, step)[:] = 0


@helper
def add_part(m, step, kernel, arguments, items, item_bytes):
    """item_bytes: of weights, which an item reads."""
    group = group_at(m, step)
    part = _part_at(m[mixture.GROUPS] + m[mixture.GROUP_BYTES] * step, group[PARTS])
    part[FIRST_ITEM], part[KERNEL], part[ARGUMENTS] = group[ITEMS], kernel, arguments
    group[PARTS] += 1
    group[ITEMS] += items
    group[BYTES] += items * item_bytes


@helper
def settle_groups(m):
    """Says how many items are claimed at a time: pieces of a size, but some for every thread."""
    for step in range(STEPS):
        group = group_at(m, step)
        fitting = group[ITEMS] * _CHUNK // group[BYTES] if group[BYTES] > 0 else group[ITEMS]
        group[TOGETHER] = max(1, min(fitting, group[ITEMS] // (_PIECES * m[mixture.THREADS])))


def grouped(first, stop, address):
    """Items of a group, known by its address."""
    parts, items = array_at(address, GROUP, np.int64)[PARTS], array_at(address, GROUP, np.int64)[ITEMS]
    index = _part_of(address, parts, first)
    while first < stop:
        part = _part_at(address, index)
        end = _part_at(address, index + 1)[FIRST_ITEM] if index + 1 < parts else items
        last = min(stop, end)
        call(part[KERNEL], first - part[FIRST_ITEM], last - part[FIRST_ITEM], part[ARGUMENTS])
        first, index = last, index + 1


@helper
def _part_of(address, parts, item):
    """The last part that begins at an item or before it."""
    low, high = 0, parts
    while low + 1 < high:
        middle = (low + high) // 2
        if _part_at(address, middle)[FIRST_ITEM] <= item:
            low = middle
        else:
            high = middle
    return low
