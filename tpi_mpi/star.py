"""The star: rank 0 adds up what all others send it, and sends them the sum.

rank 1 ── partial ──▶ ┐                ┌── sum ──▶ rank 1
rank 2 ── partial ──▶ rank 0: 0+1+2+.. ┼── sum ──▶ rank 2
rank 3 ── partial ──▶ ┘                └── sum ──▶ rank 3
"""

import torch

from tpi_mpi.exchange import Exchange
from tpi_mpi.parallel import ROOT, World
from tpi_mpi.requests import start
from tpi_mpi.waiting import wait
from tpi_mpi.wire import Wire

_TAG_PARTIAL, _TAG_SUM = 1, 3


class StarReduce(Exchange):
    """The first half of the star: rank 0 gets the sum, and the others wait for nothing."""

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        super().__init__(world, wire, width, most_rows)
        # of rank 0 in the order of the ranks, its own among them; of any other rank just its own
        self._messages = self.messages(self.size if self.rank == ROOT else 1)
        self._total = torch.empty(self.most if self.rank == ROOT else 0)

    def build(self, count: int) -> tuple[list, list]:
        buffers = self._messages[:, : self.wire.nbytes(count)].numpy()
        if self.rank != ROOT:
            return [], [self.comm.Send_init(buffers[0], ROOT, _TAG_PARTIAL)]
        return [self.comm.Recv_init(buffers[rank], rank, _TAG_PARTIAL) for rank in range(1, self.size)], []

    def run(self, partial: torch.Tensor, receives: list, sends: list) -> torch.Tensor | None:
        count = partial.numel()
        messages = self._messages[:, : self.wire.nbytes(count)]
        self.wire.write(partial, messages[0])
        start(sends)
        wait(sends)
        return self.add_up(self._total[:count], messages, receives) if self.rank == ROOT else None


class StarAllreduce(Exchange):
    """Rank 0 receives every partial, adds them in rank order, and sends the sum to all.

    On a network where latency costs more than bandwidth this takes two latencies whatever the number of ranks
    (TPI-LLM, arXiv 2410.00531, section 3.2), and 2 (size - 1) messages on rank 0's link.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        super().__init__(world, wire, width, most_rows)
        self._reduce = StarReduce(world, wire, width, most_rows)
        self._message = self.messages()

    def expect(self, rows: int) -> None:
        self._reduce.expect(rows)
        super().expect(rows)

    def build(self, count: int) -> tuple[list, list]:
        buffer = self._message[: self.wire.nbytes(count)].numpy()
        if self.rank != ROOT:
            return [self.comm.Recv_init(buffer, ROOT, _TAG_SUM)], []
        return [], [self.comm.Send_init(buffer, rank, _TAG_SUM) for rank in range(1, self.size)]

    def run(self, partial: torch.Tensor, receives: list, sends: list) -> torch.Tensor:
        message = self._message[: self.wire.nbytes(partial.numel())]
        total = self._reduce.sum(partial)
        if total is not None:
            self.wire.write(total, message)
        start(sends)
        wait([*sends, *receives])
        return self.wire.read(message, partial.numel()).float()

    def free(self) -> None:
        self._reduce.free()
        super().free()
