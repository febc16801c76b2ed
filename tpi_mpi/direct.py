"""The direct exchange: every rank sends its partial to every other, and each adds them all up for itself.

rank 0 ── partial ──▶ ranks 1, 2, 3      rank 0: 0+1+2+3
rank 1 ── partial ──▶ ranks 2, 3, 0      rank 1: 0+1+2+3
rank 2 ── partial ──▶ ranks 3, 0, 1      rank 2: 0+1+2+3
"""

import torch

from tpi_mpi.requests import Requests, add_up, others, start, with_own
from tpi_mpi.waiting import wait

_TAG = 1


class DirectAllreduce:
    """Every rank receives every partial and adds them in rank order, as the star does: the sum is bitwise the same.

    One latency, and size - 1 messages each way on every link: the fastest where messages are small.
    """

    def __init__(self, comm, width: int, most_rows: int):
        self._comm = comm
        self._partials = torch.empty(comm.Get_size(), most_rows, width)  # this rank's own among them
        self._total = torch.empty(most_rows, width)
        self._requests = Requests(self._build)

    def _build(self, rows: int) -> tuple[list, list]:
        """Receives in rank order, then sends."""
        buffers = [partial[:rows].numpy() for partial in self._partials]
        ranks, own = others(self._comm), buffers[self._comm.Get_rank()]
        receives = [self._comm.Recv_init(buffers[rank], rank, _TAG) for rank in sorted(ranks)]
        return receives, [self._comm.Send_init(own, rank, _TAG) for rank in ranks]

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        rows, own = len(partial), self._comm.Get_rank()
        receives, sends = self._requests.of(rows)
        start(receives)
        self._partials[own, :rows] = partial
        start(sends)
        total = add_up(self._total[:rows], self._partials[:, :rows], with_own(receives, own))
        wait(sends)
        return total

    def free(self) -> None:
        self._requests.free()
