"""The direct exchange: every rank sends its partial to every other rank, and each adds up all of them itself.

rank 0 ── partial ──▶ ranks 1, 2, 3      rank 0: 0+1+2+3
rank 1 ── partial ──▶ ranks 2, 3, 0      rank 1: 0+1+2+3
rank 2 ── partial ──▶ ranks 3, 0, 1      rank 2: 0+1+2+3
"""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.comm.allreduce.base import Addition, Exchange, Plan, start
from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import World


@dataclass(frozen=True)
class _Crossing(Plan):
    """own: the message that holds this rank's partial. add_up: all partials. whole: the message that holds the sum."""

    own: np.ndarray
    add_up: Addition
    whole: np.ndarray


class DirectAllreduce(Exchange):
    """Every rank receives every partial and adds them in rank order, as the star does.

    Takes one latency, and size - 1 messages each way on every link: fastest for small messages.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        super().__init__(world, wire, width, most_rows)
        self._messages = self.messages(self.size)  # including this rank's own
        self._message = self.messages()
        self._total = np.empty(self.most, np.float32)

    def build(self, count: int) -> _Crossing:
        nbytes = self.wire.nbytes(count)
        messages = self._messages[:, :nbytes]
        own = messages[self.rank]
        receives = [self.comm.Recv_init(messages[rank], rank, Tag.PARTIAL) for rank in sorted(self.others())]
        sends = [self.comm.Send_init(own, rank, Tag.PARTIAL) for rank in self.others()]
        add_up = self.addition(self._total[:count], messages, receives)
        return _Crossing(receives, sends, own, add_up, self._message[:nbytes])

    def run(self, partial: np.ndarray, plan: _Crossing) -> np.ndarray:
        self.wire.write(partial, plan.own)
        start(plan.sends)
        self.wire.write(plan.add_up(), plan.whole)
        wait(plan.sends)
        return self.wire.read(plan.whole, partial.size)
