"""The allreduce algorithms to choose from, and the interface they share."""

from typing import Protocol

import numpy as np

from tpi_mpi.comm.allreduce.tuned import EXCHANGES, TunedAllreduce
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import World


class Allreduce(Protocol):
    """What the decoder needs from an algorithm. Creating it is collective over all ranks, and so is every sum.

    width: numbers in each row of a partial. most_rows: the most rows a partial may have.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int): ...

    def expect(self, rows: int) -> None:
        """Announces that the next partial has ``rows`` rows, so that its receives can be posted early. Optional."""

    def sum(self, partial: np.ndarray) -> np.ndarray:
        """The sum over all ranks of their partials, (T, width) in float32. Valid until the next call."""

    def choice(self) -> dict | None:
        """What was chosen and why, valid as JSON; None if there was nothing to choose."""

    def free(self) -> None:
        """Frees the MPI requests; the object cannot be used afterwards."""


class MpiAllreduce:
    """The MPI library's own ``MPI_Allreduce``, always in float32."""

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        self._comm = world.comm

    def expect(self, rows: int) -> None:
        pass

    def sum(self, partial: np.ndarray) -> np.ndarray:
        from mpi4py import MPI

        total = np.ascontiguousarray(partial)
        self._comm.Allreduce(MPI.IN_PLACE, total, MPI.SUM)
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
