"""Products without compiled kernels: the weights are dequantized, and torch multiplies."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from tpi_mpi.kernels.formats import TILE
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.packing import dequantize, unpack

# Tiles that are dequantized at a time, so that the caches hold them and no whole matrix is in memory in float32.
_TILES = 32


def linear(states: torch.Tensor, operand: Operand) -> torch.Tensor:
    """States (M, K) times the transpose of the operand (N, K), in float32: (M, N).

    Row by row, because torch's results for a row depend on how many there are.
    """
    product = torch.empty(len(states), operand.shape[0])
    for first, weight in _pieces(operand):
        for row, state in zip(product, states, strict=True):
            row[first : first + len(weight)] = F.linear(state, weight)
    return product


def dequantized(operand: Operand) -> torch.Tensor:
    """The weights, (N, K) in float32."""
    return torch.cat([weight for _, weight in _pieces(operand)])


def _pieces(operand: Operand) -> Iterator[tuple[int, torch.Tensor]]:
    """The weights of some tiles at a time, each with its first row's number."""
    layout = operand.layout
    for tile in range(0, layout.tiles, _TILES):
        rows = unpack([part[tile : tile + _TILES] for part in operand.parts], layout)
        weight = dequantize(rows[: layout.rows - tile * TILE], layout.format, layout.lead)
        yield tile * TILE, torch.from_numpy(weight)
