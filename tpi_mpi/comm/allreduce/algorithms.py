"""Sums over the ranks: the algorithms there are, and what all of them have in common."""

from typing import Protocol

import torch

from tpi_mpi.comm.allreduce.tuned import EXCHANGES, TunedAllreduce
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import World


class Allreduce(Protocol):
    """What the decoder needs of an algorithm, which is made by all ranks together and called once a block.

    width: columns of every partial. most_rows: the most rows of any.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int): ...

    def expect(self, rows: int) -> None:
        """The next partial will have so many rows; its receives can be posted. May be left out."""

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' partials (T, width) in float32. Valid until the next call."""

    def choice(self) -> dict | None:
        """What was chosen, and why, where there was a choice; fit for JSON."""

    def free(self) -> None:
        """Gives back the MPI requests; the object cannot be used afterwards."""


class MpiAllreduce:
    """``MPI_Allreduce`` as the MPI library does it, in float32 whatever the wire."""

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        self._comm = world.comm

    def expect(self, rows: int) -> None:
        pass

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        from mpi4py import MPI

        total = partial.contiguous()
        self._comm.Allreduce(MPI.IN_PLACE, total.numpy(), MPI.SUM)
        return total

    def choice(self) -> None:
        return None

    def free(self) -> None:
        pass


ALGORITHMS: dict[str, type[Allreduce]] = {
    **EXCHANGES,
    "auto": TunedAllreduce,
    "mpi": MpiAllreduce,
}
