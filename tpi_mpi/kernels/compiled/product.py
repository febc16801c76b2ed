"""The work of a product: tiles of weights, each times all packs of states."""

from collections.abc import Callable
from functools import cache

import numpy as np

from tpi_mpi.kernels.compiled import states
from tpi_mpi.kernels.compiled.jit import compiled, kernel_address, named
from tpi_mpi.kernels.compiled.memory import array_at
from tpi_mpi.kernels.compiled.pool import run
from tpi_mpi.kernels.compiled.states import (
    ARGUMENTS,
    GROUPS,
    INPUTS,
    OFFSETS,
    OPERANDS,
    ORDERED,
    PLANES,
    ROWS,
    STEPS,
    SUMS,
    TABLE,
    pack_height,
)
from tpi_mpi.kernels.table import FLOAT, INTEGER, ROUNDED, Kernel
from tpi_mpi.kernels.tiles.intrinsics import multiply_tile, spelled

(
    WEIGHTS,  # address
    SCALES,  # address
    ZERO_POINTS,  # address
    TILE_BYTES,  # of weights
    TILE_SCALE_BYTES,  # of scales, and of zero points
    SCALE_STEP,  # bytes from one group's scales to the next's
    MATRIX_ARGUMENTS,
) = range(7)
"""The places of a matrix's arguments, and how many there are; see :attr:`tpi_mpi.kernels.operand.Operand.arguments`."""

(
    SLOT,  # where the table has the address of its arguments
    TILES_BEFORE,  # of the operands before this one
    OUT,  # address
    OUT_STEP,  # bytes of a row of results
    OPERAND_ARGUMENTS,
) = range(5)
"""The places of an operand's own arguments, which follow those of the states, and how many there are."""

STATE_BYTES = {INTEGER: 1, FLOAT: 4, ROUNDED: 2}
"""Bytes of a state, by the kind of kernel; of each plane, where there are several."""


@compiled
def execute(control, steps, count):
    """Runs steps one after another on the threads of a pool: each a kernel, its arguments, items, items in a chunk."""
    table = array_at(steps, 4 * count, np.int64)
    for at in range(0, 4 * count, 4):
        run(control, table[at], table[at + 1], table[at + 2], table[at + 3])


@cache
def order_kernel(kernel: Kernel) -> int:
    """The address of what puts states in order for a kernel."""
    if kernel.kind == INTEGER:
        return _order_bytes(kernel.group, kernel.planes)
    return kernel_address({FLOAT: states.order_floats, ROUNDED: states.order_rounded}[kernel.kind])


@cache
def _order_bytes(group: int, planes: int) -> int:
    return kernel_address(named(states.order_bytes_in(group, planes), f"order_bytes {group} {planes}"))


@cache
def product_kernel(kernel: Kernel) -> int:
    """The address of what multiplies tiles with ordered states."""
    word = spelled(kernel)
    return kernel_address(named(_product(word, kernel.height, STATE_BYTES[kernel.kind]), f"product {word}"))


def _product(word: str, height: int, state_bytes: int) -> Callable:
    """The work for one kernel. Only words and numbers of this function are constants in the compiled one: by these,
    Numba recognizes what it has compiled before."""

    def product(first, stop, address):
        head = array_at(address, ARGUMENTS, np.int64)
        inputs, groups, planes = head[INPUTS], head[GROUPS], head[PLANES]
        operands = array_at(address + 8 * ARGUMENTS, head[OPERANDS] * OPERAND_ARGUMENTS, np.int64)
        table = array_at(head[TABLE], 1, np.int64)[0]
        o = 0
        for tile in range(first, stop):
            while o + OPERAND_ARGUMENTS < len(operands) and tile >= operands[o + OPERAND_ARGUMENTS + TILES_BEFORE]:
                o += OPERAND_ARGUMENTS
            own = tile - operands[o + TILES_BEFORE]
            matrix = array_at(array_at(table + 8 * operands[o + SLOT], 1, np.int64)[0], MATRIX_ARGUMENTS, np.int64)
            for row in range(0, head[ROWS], height):
                multiply_tile(
                    word,
                    pack_height(head[ROWS] - row, height),
                    matrix[WEIGHTS] + own * matrix[TILE_BYTES],
                    matrix[SCALES] + own * matrix[TILE_SCALE_BYTES],
                    matrix[ZERO_POINTS] + own * matrix[TILE_SCALE_BYTES],
                    matrix[SCALE_STEP],
                    inputs,
                    head[ORDERED] + state_bytes * planes * row * inputs,
                    head[STEPS] + 4 * row * groups,
                    head[OFFSETS] + 4 * row * planes * groups,
                    head[SUMS] + 4 * row * groups,
                    operands[o + OUT] + 64 * own + row * operands[o + OUT_STEP],
                    operands[o + OUT_STEP],
                )

    return product
