"""Products without compiled kernels: the weights are dequantized, and torch multiplies."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.packing import dequantize, unpack

# Rows that are dequantized at a time, so that no whole matrix is held in float32 twice.
_ROWS = 512


class Fallback:
    """Multiplies states with operands, slowly and obviously: see :class:`tpi_mpi.kernels.linear.Linear`."""

    def __enter__(self) -> "Fallback":
        return self

    def __exit__(self, *exception) -> None:
        pass

    def adapt(self) -> None:
        """There are no threads of its own."""

    def __call__(self, rows: torch.Tensor, operand: Operand, work: str) -> torch.Tensor:
        """Row by row, because torch's results for a row depend on how many there are."""
        weight = dequantized(operand)
        return torch.cat([F.linear(row[None], weight) for row in rows])

    def several(self, rows: torch.Tensor, operands: Sequence[Operand], work: str) -> list[torch.Tensor]:
        return [self(rows, operand, work) for operand in operands]


def dequantized(operand: Operand) -> torch.Tensor:
    """The weights, (N, K) in float32."""
    rows, layout = unpack(operand.parts, operand.layout), operand.layout
    pieces = [
        torch.from_numpy(dequantize(rows[first : first + _ROWS], layout.format, layout.lead))
        for first in range(0, layout.rows, _ROWS)
    ]
    return torch.cat(pieces)
