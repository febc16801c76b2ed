"""Reduce-scatter, then allgather: every rank adds up one part of the partials and sends its sum to all others.

rank 0 ◀── part 0 of every partial    rank 0 ── sum of part 0 ──▶ all others
rank 1 ◀── part 1 of every partial    rank 1 ── sum of part 1 ──▶ all others
rank 2 ◀── part 2 of every partial    rank 2 ── sum of part 2 ──▶ all others
"""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.comm.allreduce.base import Addition, Exchange, Plan, start
from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import World


@dataclass(frozen=True)
class _Scattering(Plan):
    """The sends are those of parts, then of this rank's sum, and ``parts`` and ``sums`` are lists of the same.

    own: the message that holds this rank's partial. own_part: its part that this rank adds up. kept: where that is put
    beside the other ranks'. add_up: this part of all partials. whole: the message that holds the sum. sum_of_part: this
    rank's part of it. late: what is awaited at the end.
    """

    own: np.ndarray
    own_part: np.ndarray
    kept: np.ndarray
    add_up: Addition
    whole: np.ndarray
    sum_of_part: np.ndarray
    parts: list
    sums: list
    late: list


class ReduceScatterAllreduce(Exchange):
    """Each rank adds its part of all partials in rank order, as the star does.

    Takes two latencies, and 2 (size - 1) / size messages each way on every link, none busier than another: fastest
    for large messages.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        super().__init__(world, wire, width, most_rows)
        first, last = self._part(self.most, 0)
        self._own, self._message = self.messages(), self.messages()
        self._parts = np.empty((self.size, wire.nbytes(last - first)), np.uint8)  # one part per partial
        self._total = np.empty(last - first, np.float32)

    def _part(self, count: int, rank: int) -> tuple[int, int]:
        """The range of ``count`` numbers that a rank adds up: whole wire groups, possibly none if numbers are few."""
        group = self.wire.group
        length = -(-count // (group * self.size)) * group
        return min(count, rank * length), min(count, (rank + 1) * length)

    def _byte_range(self, count: int, rank: int) -> slice:
        """The bytes of a message that hold a rank's part."""
        return self.byte_range(*self._part(count, rank))

    def build(self, count: int) -> _Scattering:
        """Receives of parts in rank order, then of sums."""
        own, whole = (buffer[: self.wire.nbytes(count)] for buffer in (self._own, self._message))
        (first, last), own_range = self._part(count, self.rank), self._byte_range(count, self.rank)
        kept, sum_of_part = self._parts[:, : own_range.stop - own_range.start], whole[own_range]
        receive, send, others = self.comm.Recv_init, self.comm.Send_init, self.others()
        arriving = [receive(kept[rank], rank, Tag.PARTIAL) for rank in sorted(others)]
        arriving_sums = [receive(whole[self._byte_range(count, rank)], rank, Tag.SUM) for rank in others]
        parts = [send(own[self._byte_range(count, rank)], rank, Tag.PARTIAL) for rank in others]
        sums = [send(sum_of_part, rank, Tag.SUM) for rank in others]
        return _Scattering(
            receives=[*arriving, *arriving_sums],
            sends=[*parts, *sums],
            own=own,
            own_part=own[own_range],
            kept=kept[self.rank],
            add_up=self.addition(self._total[: last - first], kept, arriving),
            whole=whole,
            sum_of_part=sum_of_part,
            parts=parts,
            sums=sums,
            late=[*arriving_sums, *parts, *sums],
        )

    def run(self, partial: np.ndarray, plan: _Scattering) -> np.ndarray:
        self.wire.write(partial, plan.own)
        start(plan.parts)
        plan.kept[:] = plan.own_part
        self.wire.write(plan.add_up(), plan.sum_of_part)
        start(plan.sums)
        wait(plan.late)
        return self.wire.read(plan.whole, partial.size)
