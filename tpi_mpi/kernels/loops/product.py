"""The work of a product: tiles of weights, each times all packs of states."""

from collections.abc import Callable

import numpy as np

from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at
from tpi_mpi.kernels.loops.states import pack_height
from tpi_mpi.kernels.records.product import (
    ARGUMENTS,
    GROUPS,
    INPUTS,
    MATRIX_ARGUMENTS,
    OFFSETS,
    OPERAND_ARGUMENTS,
    OPERANDS,
    ORDERED,
    OUT,
    OUT_STEP,
    PLANES,
    ROWS,
    SCALE_STEP,
    SCALES,
    SLOT,
    STEPS,
    SUMS,
    TABLE,
    TILE_BYTES,
    TILE_SCALE_BYTES,
    TILES_BEFORE,
    WEIGHTS,
    ZERO_POINTS,
)
from tpi_mpi.kernels.tiles.intrinsics import multiply_tile


@helper
def _number_at(address):
    return array_at(address, 1, np.int64)[0]


def product_in(word: str, height: int, state_bytes: int) -> Callable:
    """The work for one kernel: its word, rows of a pack, and bytes of a state."""

    def product(first, stop, address):
        head = array_at(address, ARGUMENTS, np.int64)
        inputs, groups, planes = head[INPUTS], head[GROUPS], head[PLANES]
        operands = array_at(address + 8 * ARGUMENTS, head[OPERANDS] * OPERAND_ARGUMENTS, np.int64)
        table = _number_at(head[TABLE])
        o = 0
        for tile in range(first, stop):
            while o + OPERAND_ARGUMENTS < len(operands) and tile >= operands[o + OPERAND_ARGUMENTS + TILES_BEFORE]:
                o += OPERAND_ARGUMENTS
            own = tile - operands[o + TILES_BEFORE]
            matrix = array_at(_number_at(table + 8 * operands[o + SLOT]), MATRIX_ARGUMENTS, np.int64)
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
