"""Products without compiled kernels: the weights are dequantized, and torch multiplies."""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F

from tpi_mpi.kernels.formats import TILE, Tiled
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.packing import dequantize, unpack

# Tiles that are dequantized at a time, so that the caches hold them and no whole matrix is in memory in float32.
_TILES = 32


class Fallback:
    """Multiplies states with operands, slowly and obviously: see :class:`tpi_mpi.kernels.linear.Linear`."""

    threads = 1
    token = None

    def __enter__(self) -> "Fallback":
        return self

    def __exit__(self, *exception) -> None:
        """It has no threads to end."""

    def adapt(self) -> None:
        """It has no threads of its own."""

    def prepare(self, layouts: Iterable[Tiled]) -> None:
        """There is nothing to compile."""

    def describe(self, layouts: Iterable[Tiled]) -> list[str]:
        return ["torch, on dequantized weights"]

    def __call__(self, rows: torch.Tensor, operand: Operand, work: str) -> torch.Tensor:
        """Row by row, because torch's results for a row depend on how many there are."""
        product = torch.empty(len(rows), operand.shape[0])
        for first, weight in _pieces(operand):
            for result, row in zip(product, rows, strict=True):
                result[first : first + len(weight)] = F.linear(row, weight)
        return product

    def several(self, rows: torch.Tensor, operands: Sequence[Operand], work: str) -> list[torch.Tensor]:
        return [self(rows, operand, work) for operand in operands]


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
