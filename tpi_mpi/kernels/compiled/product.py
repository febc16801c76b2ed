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
    TILES_BEFORE,  # of the operands before this one
    OUT,  # address
    OUT_STEP,  # bytes of a row of results
    OPERAND_ARGUMENTS,
) = range(10)
"""The places of an operand's arguments, which follow those of the states, and how many there are."""

STATE_BYTES = {INTEGER: 1, FLOAT: 4, ROUNDED: 2}
"""Bytes of a state, by the kind of kernel; of each plane, where there are several."""


@compiled
def multiply(control, order, product, address, packs, tiles, tiles_together):
    """Puts the states in order and multiplies them, on the threads of a pool.

    control: the pool's. order, product: addresses of kernels. address: of the arguments.
    """
    run(control, order, address, packs, 1 if packs > 2 else packs)
    run(control, product, address, tiles, tiles_together)


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
        o = 0
        for tile in range(first, stop):
            while o + OPERAND_ARGUMENTS < len(operands) and tile >= operands[o + OPERAND_ARGUMENTS + TILES_BEFORE]:
                o += OPERAND_ARGUMENTS
            own = tile - operands[o + TILES_BEFORE]
            for row in range(0, head[ROWS], height):
                multiply_tile(
                    word,
                    pack_height(head[ROWS] - row, height),
                    operands[o + WEIGHTS] + own * operands[o + TILE_BYTES],
                    operands[o + SCALES] + own * operands[o + TILE_SCALE_BYTES],
                    operands[o + ZERO_POINTS] + own * operands[o + TILE_SCALE_BYTES],
                    operands[o + SCALE_STEP],
                    inputs,
                    head[ORDERED] + state_bytes * planes * row * inputs,
                    head[STEPS] + 4 * row * groups,
                    head[OFFSETS] + 4 * row * planes * groups,
                    head[SUMS] + 4 * row * groups,
                    operands[o + OUT] + 64 * own + row * operands[o + OUT_STEP],
                    operands[o + OUT_STEP],
                )

    return product
