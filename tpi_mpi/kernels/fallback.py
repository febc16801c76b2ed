"""Products without compiled kernels: the weights are dequantized, and torch multiplies."""

import torch
import torch.nn.functional as F

from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.packing import dequantize, unpack

# Rows that are dequantized at a time, so that no whole matrix is held in float32.
_ROWS = 512


def linear(states: torch.Tensor, operand: Operand) -> torch.Tensor:
    """States (M, K) times the transpose of the operand (N, K), in float32: (M, N).

    Row by row, because torch's results for a row depend on how many there are.
    """
    weight = dequantized(operand)
    return torch.cat([F.linear(state[None], weight) for state in states])


def dequantized(operand: Operand) -> torch.Tensor:
    """The weights, (N, K) in float32."""
    rows, layout = unpack(operand.parts, operand.layout), operand.layout
    pieces = [
        torch.from_numpy(dequantize(rows[first : first + _ROWS], layout.format, layout.lead))
        for first in range(0, layout.rows, _ROWS)
    ]
    return torch.cat(pieces)
