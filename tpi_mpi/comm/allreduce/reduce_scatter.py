"""Reduce-scatter, then allgather: every rank adds up one part of the partials and sends its sum to all others.

rank 0 ◀── part 0 of every partial    rank 0 ── sum of part 0 ──▶ all others
rank 1 ◀── part 1 of every partial    rank 1 ── sum of part 1 ──▶ all others
rank 2 ◀── part 2 of every partial    rank 2 ── sum of part 2 ──▶ all others
"""

import torch

from tpi_mpi.comm.allreduce.base import Exchange, start
from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import World


class ReduceScatterAllreduce(Exchange):
    """Each rank adds its part of all partials in rank order, as the star does.

    Takes two latencies, and 2 (size - 1) / size messages each way on every link, none busier than another: fastest
    for large messages.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        super().__init__(world, wire, width, most_rows)
        first, last = self._part(self.most, 0)
        self._own, self._message = self.messages(), self.messages()
        self._parts = torch.empty(self.size, wire.nbytes(last - first), dtype=torch.uint8)  # one part per partial
        self._total = torch.empty(last - first)

    def _part(self, count: int, rank: int) -> tuple[int, int]:
        """The range of ``count`` numbers that a rank adds up: whole wire groups, possibly none if numbers are few."""
        group = self.wire.group
        length = -(-count // (group * self.size)) * group
        return min(count, rank * length), min(count, (rank + 1) * length)

    def _byte_range(self, count: int, rank: int) -> slice:
        """The bytes of a message that hold a rank's part."""
        return self.byte_range(*self._part(count, rank))

    def _own_parts(self, count: int) -> torch.Tensor:
        """This rank's part of each partial."""
        own_range = self._byte_range(count, self.rank)
        return self._parts[:, : own_range.stop - own_range.start]

    def build(self, count: int) -> tuple[list, list, list]:
        """Three lists: receives of parts in rank order, then of sums; sends of parts; sends of this rank's sum."""
        own, message, parts = self._own.numpy(), self._message.numpy(), self._own_parts(count).numpy()
        sum_of = message[self._byte_range(count, self.rank)]
        receive, send, others = self.comm.Recv_init, self.comm.Send_init, self.others()
        arriving = [receive(parts[rank], rank, Tag.PARTIAL) for rank in sorted(others)]
        sums = [receive(message[self._byte_range(count, rank)], rank, Tag.SUM) for rank in others]
        leaving = [send(own[self._byte_range(count, rank)], rank, Tag.PARTIAL) for rank in others]
        return [*arriving, *sums], leaving, [send(sum_of, rank, Tag.SUM) for rank in others]

    def run(self, partial: torch.Tensor, receives: list, sends: list, sum_sends: list) -> torch.Tensor:
        count = partial.numel()
        own, message = (buffer[: self.wire.nbytes(count)] for buffer in (self._own, self._message))
        own_range, (first, last) = self._byte_range(count, self.rank), self._part(count, self.rank)
        self.wire.write(partial, own)
        start(sends)
        parts = self._own_parts(count)
        parts[self.rank] = own[own_range]
        arriving, sums = receives[: self.size - 1], receives[self.size - 1 :]
        self.wire.write(self.add_up(self._total[: last - first], parts, arriving), message[own_range])
        start(sum_sends)
        wait([*sums, *sends, *sum_sends])
        return self.wire.read(message, count).float()
