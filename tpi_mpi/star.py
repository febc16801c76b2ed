"""The star: rank 0 adds up what all others send it, and sends them the sum.

rank 1 ── partial ──▶ ┐                ┌── sum ──▶ rank 1
rank 2 ── partial ──▶ rank 0: 0+1+2+.. ┼── sum ──▶ rank 2
rank 3 ── partial ──▶ ┘                └── sum ──▶ rank 3
"""

import torch

from tpi_mpi.parallel import ROOT
from tpi_mpi.requests import Requests, add_up, start, with_own
from tpi_mpi.waiting import wait

_TAG = 1


class StarAllreduce:
    """Rank 0 receives every partial, adds them in rank order, and sends the sum to all.

    On a network where latency costs more than bandwidth this takes two latencies whatever the number of ranks
    (TPI-LLM, arXiv 2410.00531, section 3.2), and 2 (size - 1) messages on rank 0's link. Because the order is fixed,
    equal inputs give bitwise equal sums. Buffers are built once.
    """

    def __init__(self, comm, width: int, most_rows: int):
        self._role = (_Centre if comm.Get_rank() == ROOT else _Point)(comm, width, most_rows)
        self._requests = Requests(self._role.requests)

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        return self._role.sum(partial, *self._requests.of(len(partial)))

    def free(self) -> None:
        self._requests.free()


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
        start(receives)
        addends = [partial, *(other[: len(partial)] for other in self._partials)]
        total = add_up(self._total[: len(partial)], addends, with_own(receives, ROOT))
        start(sends)
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
        start([*receives, *sends])
        wait([*receives, *sends])
        return self._total[: len(partial)]
