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
    """What the decoder needs of an algorithm. ``width`` is the number of columns of every partial."""

    def __init__(self, comm, width: int): ...

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' partials (T, width) in float32. Valid until the next call."""

    def free(self) -> None:
        """Gives back the MPI requests; the object cannot be used afterwards."""


class StarAllreduce:
    """Rank 0 receives every partial, adds them in rank order, and sends the sum to all.

    On a network where latency costs more than bandwidth this takes two latencies whatever the number of ranks
    (TPI-LLM, arXiv 2410.00531, section 3.2). Because the order is fixed, equal inputs give bitwise equal sums.
    Buffers and persistent requests are built once for each number of rows.
    """

    # One for a decoded token, one for a full chunk of a prompt, a few for the chunks that end prompts.
    _MAX_SHAPES = 8

    def __init__(self, comm, width: int):
        self._comm = comm
        self._width = width
        self._star = _Centre if comm.Get_rank() == ROOT else _Point
        self._by_rows: dict[int, _Centre | _Point] = {}

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        return self._for_rows(len(partial)).sum(partial)

    def _for_rows(self, rows: int) -> "_Centre | _Point":
        if rows not in self._by_rows:
            if len(self._by_rows) == self._MAX_SHAPES:
                self._by_rows.pop(next(iter(self._by_rows))).free()
            self._by_rows[rows] = self._star(self._comm, (rows, self._width))
        return self._by_rows[rows]

    def free(self) -> None:
        while self._by_rows:
            self._by_rows.popitem()[1].free()


class _Centre:
    """Rank 0's side of the star, for one shape."""

    def __init__(self, comm, shape: tuple[int, int]):
        others = range(1, comm.Get_size())
        self._partials = [torch.empty(shape) for _ in others]
        self._total = torch.empty(shape)
        pairs = list(zip(others, self._partials, strict=True))
        self._receives = [comm.Recv_init(partial.numpy(), rank, _TAG) for rank, partial in pairs]
        self._sends = [comm.Send_init(self._total.numpy(), rank, _TAG) for rank in others]

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        _start(self._receives)
        self._total.copy_(partial)
        for receive, other in zip(self._receives, self._partials, strict=True):
            wait([receive])
            self._total += other
        _start(self._sends)
        wait(self._sends)
        return self._total

    def free(self) -> None:
        for request in (*self._receives, *self._sends):
            request.Free()


class _Point:
    """Any other rank's side of the star, for one shape."""

    def __init__(self, comm, shape: tuple[int, int]):
        self._partial, self._total = torch.empty(shape), torch.empty(shape)
        self._send = comm.Send_init(self._partial.numpy(), ROOT, _TAG)
        self._receive = comm.Recv_init(self._total.numpy(), ROOT, _TAG)

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        self._partial.copy_(partial)
        _start([self._receive, self._send])
        wait([self._receive, self._send])
        return self._total

    def free(self) -> None:
        self._send.Free()
        self._receive.Free()


class MpiAllreduce:
    """``MPI_Allreduce`` as the MPI library does it."""

    def __init__(self, comm, width: int):
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
