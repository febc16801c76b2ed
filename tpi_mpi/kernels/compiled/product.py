"""The work of a product: tiles of weights, each times all packs of states."""

from collections.abc import Callable
from functools import cache

import numpy as np

from tpi_mpi.kernels.compiled import states
from tpi_mpi.kernels.compiled.jit import compiled, kernel_address
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
    return kernel_address(states.order_bytes_in(group, planes))


@cache
def product_kernel(kernel: Kernel) -> int:
    """The address of what multiplies tiles with ordered states."""
    return kernel_address(_product(spelled(kernel), kernel.height, STATE_BYTES[kernel.kind]))


def _product(word: str, height: int, state_bytes: int) -> Callable:
    """The work for one kernel, whose name and heights are literals in it."""
    half, quarter = max(1, height // 2), max(1, height // 4)

    @compiled
    def multiply_packs(head, w, scales, zeros, step, out, out_step):
        """Multiplies one tile with all packs."""
        inputs, groups, planes = head[INPUTS], head[GROUPS], head[PLANES]
        for row in range(0, head[ROWS], height):
            size = pack_height(head[ROWS] - row, height)
            x = head[ORDERED] + state_bytes * planes * row * inputs
            steps, sums = head[STEPS] + 4 * row * groups, head[SUMS] + 4 * row * groups
            offsets = head[OFFSETS] + 4 * row * planes * groups
            here = out + row * out_step
            if size == height:
                multiply_tile(word, height, w, scales, zeros, step, inputs, x, steps, offsets, sums, here, out_step)
            elif size == half:
                multiply_tile(word, half, w, scales, zeros, step, inputs, x, steps, offsets, sums, here, out_step)
            elif size == quarter:
                multiply_tile(word, quarter, w, scales, zeros, step, inputs, x, steps, offsets, sums, here, out_step)
            else:
                multiply_tile(word, 1, w, scales, zeros, step, inputs, x, steps, offsets, sums, here, out_step)

    def product(first, stop, address):
        head = array_at(address, ARGUMENTS, np.int64)
        operands = array_at(address + 8 * ARGUMENTS, head[OPERANDS] * OPERAND_ARGUMENTS, np.int64)
        for tile in range(first, stop):
            o = 0
            while o + OPERAND_ARGUMENTS < len(operands) and tile >= operands[o + OPERAND_ARGUMENTS + TILES_BEFORE]:
                o += OPERAND_ARGUMENTS
            own = tile - operands[o + TILES_BEFORE]
            weights = operands[o + WEIGHTS] + own * operands[o + TILE_BYTES]
            scales = operands[o + SCALES] + own * operands[o + TILE_SCALE_BYTES]
            zeros = operands[o + ZERO_POINTS] + own * operands[o + TILE_SCALE_BYTES]
            out = operands[o + OUT] + 64 * own
            multiply_packs(head, weights, scales, zeros, operands[o + SCALE_STEP], out, operands[o + OUT_STEP])

    return product
