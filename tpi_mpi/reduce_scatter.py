"""Reduce-scatter, then allgather: every rank adds up one part of the partials, and all send each other the sums.

rank 0 ◀── part 0 of every partial    rank 0 ── sum of part 0 ──▶ all others
rank 1 ◀── part 1 of every partial    rank 1 ── sum of part 1 ──▶ all others
rank 2 ◀── part 2 of every partial    rank 2 ── sum of part 2 ──▶ all others
"""

import torch

from tpi_mpi.partition import bounds
from tpi_mpi.requests import Requests, add_up, others, start, with_own
from tpi_mpi.waiting import wait

_TAG_PART, _TAG_SUM = 1, 3


class ReduceScatterAllreduce:
    """Each rank adds its part of all partials in rank order, as the star does: the sum is bitwise the same.

    Two latencies, and 2 (size - 1) / size messages each way on every link, none busier than another: the fastest
    where messages are large.
    """

    def __init__(self, comm, width: int, most_rows: int):
        self._comm = comm
        self._width = width
        size = comm.Get_size()
        self._own = torch.empty(most_rows * width)
        self._parts = torch.empty(size, -(-most_rows * width // size))  # this rank's part of every partial
        self._total = torch.empty(most_rows * width)
        self._requests = Requests(self._build)

    def _bounds(self, rows: int) -> tuple[tuple[int, int], ...]:
        """Which elements of so many rows each rank adds up."""
        return bounds(rows * self._width, (1.0,) * self._comm.Get_size())

    def _build(self, rows: int) -> tuple[list, list, list, list]:
        """Receives of parts in rank order, their sends, receives of sums, their sends."""
        ranks, cuts = others(self._comm), self._bounds(rows)
        first, last = cuts[self._comm.Get_rank()]
        own, parts, total = self._own.numpy(), self._parts[:, : last - first].numpy(), self._total.numpy()
        receive, send = self._comm.Recv_init, self._comm.Send_init
        return (
            [receive(parts[rank], rank, _TAG_PART) for rank in sorted(ranks)],
            [send(own[slice(*cuts[rank])], rank, _TAG_PART) for rank in ranks],
            [receive(total[slice(*cuts[rank])], rank, _TAG_SUM) for rank in ranks],
            [send(total[first:last], rank, _TAG_SUM) for rank in ranks],
        )

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        rows, rank = len(partial), self._comm.Get_rank()
        receives, sends, sum_receives, sum_sends = self._requests.of(rows)
        start([*receives, *sum_receives])
        self._own[: rows * self._width].view(rows, self._width)[:] = partial
        start(sends)
        first, last = self._bounds(rows)[rank]
        parts = [part[: last - first] for part in self._parts]
        parts[rank] = self._own[first:last]
        add_up(self._total[first:last], parts, with_own(receives, rank))
        start(sum_sends)
        wait([*sum_receives, *sends, *sum_sends])
        return self._total[: rows * self._width].view(rows, self._width)

    def free(self) -> None:
        self._requests.free()
