"""The star: rank 0 adds up what all other ranks send it, and sends them the sum, piece by piece.

rank 1 ── partial ──▶ ┐                ┌── sum ──▶ rank 1
rank 2 ── partial ──▶ rank 0: 0+1+2+.. ┼── sum ──▶ rank 2
rank 3 ── partial ──▶ ┘                └── sum ──▶ rank 3
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from tpi_mpi.comm.allreduce.base import Addition, Exchange, Plan, start
from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import ROOT, World
from tpi_mpi.common.units import KIB

# A message is cut into at most _PIECES pieces of at least _LEAST bytes: while one arrives, the sum of the previous one
# leaves, because a link carries both directions at once.
_LEAST, _PIECES = 8 * KIB, 16


@dataclass(frozen=True)
class _Gathering(Plan):
    """own: the message that holds this rank's partial. additions: on rank 0, that of each piece."""

    own: np.ndarray
    additions: Sequence[Addition] = ()


class StarReduce(Exchange):
    """The first half of the star: rank 0 gets the sum, and the other ranks only send."""

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        super().__init__(world, wire, width, most_rows)
        # on rank 0 one per rank, in rank order and including its own; on any other rank just its own
        self._messages = self.messages(self.size if self.rank == ROOT else 1)
        self._total = np.empty(self.most if self.rank == ROOT else 0, np.float32)

    def build(self, count: int) -> _Gathering:
        """Receives or sends, piece by piece; the receives of a piece in rank order."""
        own, bounds = self._messages[0, : self.wire.nbytes(count)], pieces_of(self.wire, count)
        if self.rank != ROOT:
            pieces = (own[self.byte_range(*piece)] for piece in bounds)
            return _Gathering([], [self.comm.Send_init(piece, ROOT, Tag.PARTIAL) for piece in pieces], own)
        receives, additions = [], []
        for first, last in bounds:
            messages = self._messages[:, self.byte_range(first, last)]
            arriving = [self.comm.Recv_init(messages[rank], rank, Tag.PARTIAL) for rank in range(1, self.size)]
            additions.append(self.addition(self._total[first:last], messages, arriving))
            receives += arriving
        return _Gathering(receives, [], own, additions)

    def run(self, partial: np.ndarray, plan: _Gathering) -> np.ndarray | None:
        for _ in self._pieces(partial, plan):
            pass
        return self._total[: partial.size] if self.rank == ROOT else None

    def _pieces(self, partial: np.ndarray, plan: _Gathering) -> Iterator[np.ndarray]:
        """On rank 0: each piece of the sum as soon as it is complete. Elsewhere: nothing, once the partial is sent."""
        self.wire.write(partial, plan.own)
        start(plan.sends)
        wait(plan.sends)
        for add_up in plan.additions:
            yield add_up()

    def pieces(self, partial: np.ndarray) -> Iterator[np.ndarray]:
        """As :meth:`sum`, but yields the flat sum (count,) in pieces; on rank 0 alone."""
        return self._pieces(partial, self.take(len(partial)))


@dataclass(frozen=True)
class _Spreading(Plan):
    """whole: the message that holds the sum. pieces: on rank 0, its pieces, each with its sends."""

    whole: np.ndarray
    pieces: Sequence[tuple[np.ndarray, list]] = ()


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

    def build(self, count: int) -> _Spreading:
        whole = self._message[: self.wire.nbytes(count)]
        messages = [whole[self.byte_range(*piece)] for piece in pieces_of(self.wire, count)]
        if self.rank != ROOT:
            return _Spreading([self.comm.Recv_init(message, ROOT, Tag.SUM) for message in messages], [], whole)
        ranks = range(1, self.size)
        sends = [[self.comm.Send_init(message, rank, Tag.SUM) for rank in ranks] for message in messages]
        return _Spreading([], [*chain(*sends)], whole, list(zip(messages, sends, strict=True)))

    def run(self, partial: np.ndarray, plan: _Spreading) -> np.ndarray:
        for total, (message, sends) in zip(self._reduce.pieces(partial), plan.pieces, strict=True):
            self.wire.write(total, message)
            start(sends)
        wait(plan.sends)
        wait(plan.receives)
        return self.wire.read(plan.whole, partial.size)

    def free(self) -> None:
        self._reduce.free()
        super().free()


def pieces_of(wire: Wire, count: int) -> list[tuple[int, int]]:
    """The (start, stop) of each piece in which ``count`` numbers are sent."""
    pieces = max(1, min(_PIECES, wire.nbytes(count) // _LEAST))
    length = -(-count // (pieces * wire.group)) * wire.group
    return [(first, min(count, first + length)) for first in range(0, count, length)]
