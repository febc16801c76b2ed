"""The star: rank 0 adds up what all other ranks send it, and sends them the sum, piece by piece.

rank 1 ── partial ──▶ ┐                ┌── sum ──▶ rank 1
rank 2 ── partial ──▶ rank 0: 0+1+2+.. ┼── sum ──▶ rank 2
rank 3 ── partial ──▶ ┘                └── sum ──▶ rank 3
"""

from collections.abc import Iterator

import torch

from tpi_mpi.comm.allreduce.base import Exchange, start
from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import ROOT, World
from tpi_mpi.common.units import KIB

# A message is cut into at most _PIECES pieces of at least _LEAST bytes: while one arrives, the sum of the previous one
# leaves, because a link carries both directions at once.
_LEAST, _PIECES = 8 * KIB, 16


class StarReduce(Exchange):
    """The first half of the star: rank 0 gets the sum, and the other ranks only send."""

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        super().__init__(world, wire, width, most_rows)
        # on rank 0 one per rank, in rank order and including its own; on any other rank just its own
        self._messages = self.messages(self.size if self.rank == ROOT else 1)
        self._total = torch.empty(self.most if self.rank == ROOT else 0)

    def build(self, count: int) -> tuple[list, list]:
        """Receives and sends, piece by piece; the receives of a piece in rank order."""
        pieces = [self._messages[:, self.byte_range(*piece)].numpy() for piece in pieces_of(self.wire, count)]
        if self.rank != ROOT:
            return [], [self.comm.Send_init(piece[0], ROOT, Tag.PARTIAL) for piece in pieces]
        ranks = range(1, self.size)
        return [self.comm.Recv_init(piece[rank], rank, Tag.PARTIAL) for piece in pieces for rank in ranks], []

    def run(self, partial: torch.Tensor, receives: list, sends: list) -> torch.Tensor | None:
        for _ in self._pieces(partial, receives, sends):
            pass
        return self._total[: partial.numel()] if self.rank == ROOT else None

    def _pieces(self, partial: torch.Tensor, receives: list, sends: list) -> Iterator[torch.Tensor]:
        """On rank 0: each piece of the sum as soon as it is complete. Elsewhere: nothing, once the partial is sent."""
        count, others = partial.numel(), self.size - 1
        self.wire.write(partial, self._messages[0, : self.wire.nbytes(count)])
        start(sends)
        wait(sends)
        for index, (first, last) in enumerate(pieces_of(self.wire, count) if self.rank == ROOT else ()):
            messages = self._messages[:, self.byte_range(first, last)]
            arriving = receives[index * others : (index + 1) * others]
            yield self.add_up(self._total[first:last], messages, arriving)

    def pieces(self, partial: torch.Tensor) -> Iterator[torch.Tensor]:
        """As :meth:`sum`, but yields the flat sum (count,) in pieces; on rank 0 alone."""
        return self._pieces(partial, *self.take(len(partial)))


class StarAllreduce(Exchange):
    """Rank 0 receives every partial, adds them in rank order, and sends the sum to all.

    Takes two latencies however many ranks there are, which suits networks where latency costs more than bandwidth
    (TPI-LLM, arXiv 2410.00531, section 3.2), and size - 1 messages each way on rank 0's link; cut into pieces, they
    go both ways at once.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        super().__init__(world, wire, width, most_rows)
        self._reduce = StarReduce(world, wire, width, most_rows)
        self._message = self.messages()

    def expect(self, rows: int) -> None:
        self._reduce.expect(rows)
        super().expect(rows)

    def build(self, count: int) -> tuple[list, list]:
        pieces = [self._message[self.byte_range(*piece)].numpy() for piece in pieces_of(self.wire, count)]
        if self.rank != ROOT:
            return [self.comm.Recv_init(piece, ROOT, Tag.SUM) for piece in pieces], []
        ranks = range(1, self.size)
        return [], [self.comm.Send_init(piece, rank, Tag.SUM) for piece in pieces for rank in ranks]

    def run(self, partial: torch.Tensor, receives: list, sends: list) -> torch.Tensor:
        count, others, leaving = partial.numel(), self.size - 1, iter(sends)
        bounds = iter(pieces_of(self.wire, count))
        for piece in self._reduce.pieces(partial):
            self.wire.write(piece, self._message[self.byte_range(*next(bounds))])
            start([next(leaving) for _ in range(others)])
        wait([*sends, *receives])
        return self.wire.read(self._message[: self.wire.nbytes(count)], count).float()

    def free(self) -> None:
        self._reduce.free()
        super().free()


def pieces_of(wire: Wire, count: int) -> list[tuple[int, int]]:
    """The (start, stop) of each piece in which ``count`` numbers are sent."""
    pieces = max(1, min(_PIECES, wire.nbytes(count) // _LEAST))
    length = -(-count // (pieces * wire.group)) * wire.group
    return [(first, min(count, first + length)) for first in range(0, count, length)]
