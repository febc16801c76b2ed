"""Sums over the ranks: the star of nonblocking messages, and MPI's own for comparison.

An allreduce is made for one communicator and one width, and called once a block:

    rank 1 ── partial ──▶ ┐                ┌── sum ──▶ rank 1
    rank 2 ── partial ──▶ rank 0: 0+1+2+.. ┼── sum ──▶ rank 2
    rank 3 ── partial ──▶ ┘                └── sum ──▶ rank 3
"""

from typing import Protocol

import torch

from tpi_mpi.parallel import ROOT
from tpi_mpi.waiting import wait

_TAG = 1


class Allreduce(Protocol):
    """What the decoder needs of an algorithm.

    width: columns of every partial. most_rows: the most rows of any.
    """

    def __init__(self, comm, width: int, most_rows: int): ...

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' partials (T, width) in float32. Valid until the next call."""

    def free(self) -> None:
        """Gives back the MPI requests; the object cannot be used afterwards."""


class StarAllreduce:
    """Rank 0 receives every partial, adds them in rank order, and sends the sum to all.

    On a network where latency costs more than bandwidth this takes two latencies whatever the number of ranks
    (TPI-LLM, arXiv 2410.00531, section 3.2). Because the order is fixed, equal inputs give bitwise equal sums.
    Buffers are built once, and persistent requests once for each number of rows.
    """

    # One for a decoded token, one for a full chunk of a prompt, a few for the chunks that end prompts.
    _MAX_SHAPES = 8

    def __init__(self, comm, width: int, most_rows: int):
        role = _Centre if comm.Get_rank() == ROOT else _Point
        self._role = role(comm, width, most_rows)
        self._requests: dict[int, tuple[list, list]] = {}

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        return self._role.sum(partial, *self._requests_for(len(partial)))

    def _requests_for(self, rows: int) -> tuple[list, list]:
        if rows not in self._requests:
            if len(self._requests) == self._MAX_SHAPES:
                _free(self._requests.pop(next(iter(self._requests))))
            self._requests[rows] = self._role.requests(rows)
        return self._requests[rows]

    def free(self) -> None:
        while self._requests:
            _free(self._requests.popitem()[1])


class _Centre:
    """Rank 0's side of the star."""

    def __init__(self, comm, width: int, most_rows: int):
        self._comm = comm
        self._partials = torch.empty(comm.Get_size() - 1, most_rows, width)
        self._total = torch.empty(most_rows, width)

    def requests(self, rows: int) -> tuple[list, list]:
        """Persistent receives and sends for so many rows."""
        receives = [
            self._comm.Recv_init(partial[:rows].numpy(), rank, _TAG) for rank, partial in enumerate(self._partials, 1)
        ]
        total = self._total[:rows].numpy()
        return receives, [self._comm.Send_init(total, rank, _TAG) for rank in range(1, self._comm.Get_size())]

    def sum(self, partial: torch.Tensor, receives: list, sends: list) -> torch.Tensor:
        _start(receives)
        total = self._total[: len(partial)].copy_(partial)
        for receive, other in zip(receives, self._partials, strict=True):
            wait([receive])
            total += other[: len(partial)]
        _start(sends)
        wait(sends)
        return total


class _Point:
    """Any other rank's side of the star."""

    def __init__(self, comm, width: int, most_rows: int):
        self._comm = comm
        self._partial, self._total = torch.empty(most_rows, width), torch.empty(most_rows, width)

    def requests(self, rows: int) -> tuple[list, list]:
        """One persistent receive and one send for so many rows."""
        receive = self._comm.Recv_init(self._total[:rows].numpy(), ROOT, _TAG)
        return [receive], [self._comm.Send_init(self._partial[:rows].numpy(), ROOT, _TAG)]

    def sum(self, partial: torch.Tensor, receives: list, sends: list) -> torch.Tensor:
        self._partial[: len(partial)] = partial
        _start([*receives, *sends])
        wait([*receives, *sends])
        return self._total[: len(partial)]


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


ALGORITHMS: dict[str, type[Allreduce]] = {"star": StarAllreduce, "mpi": MpiAllreduce}


def _start(requests: list) -> None:
    for request in requests:
        request.Start()


def _free(requests: tuple[list, list]) -> None:
    for request in (*requests[0], *requests[1]):
        request.Free()
