"""Sums over the ranks: the algorithms there are, and what all of them have in common."""

from typing import Protocol

import torch

from tpi_mpi.direct import DirectAllreduce
from tpi_mpi.reduce_scatter import ReduceScatterAllreduce
from tpi_mpi.star import StarAllreduce


class Allreduce(Protocol):
    """What the decoder needs of an algorithm, which is made for one communicator and called once a block.

    width: columns of every partial. most_rows: the most rows of any.
    """

    def __init__(self, comm, width: int, most_rows: int): ...

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' partials (T, width) in float32. Valid until the next call."""

    def free(self) -> None:
        """Gives back the MPI requests; the object cannot be used afterwards."""


class MpiAllreduce:
    """``MPI_Allreduce`` as the MPI library does it."""

    def __init__(self, comm, width: int, most_rows: int):
        self._comm = comm

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        from mpi4py import MPI

        total = partial.contiguous()
        self._comm.Allreduce(MPI.IN_PLACE, total.numpy(), MPI.SUM)
        return total

    def free(self) -> None:
        pass


ALGORITHMS: dict[str, type[Allreduce]] = {
    "star": StarAllreduce,
    "direct": DirectAllreduce,
    "reduce-scatter": ReduceScatterAllreduce,
    "mpi": MpiAllreduce,
}
