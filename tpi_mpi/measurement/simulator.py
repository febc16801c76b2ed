"""Sweeps as they will run, block by block: each rank fetches ahead as far as its window allows, and all wait for sums.

The fetch of a block begins when the block before it has arrived, and pauses while the window is full, until a block
that was used is released. A block is computed once it has arrived and the sum after the block before it is complete;
the sum after it is complete when the slowest rank has computed its partial.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Lane:
    """One rank as time goes by, in seconds from the beginning.

    blocks: bytes of each, in the order of use. pinned: those that stay once fetched. capacity: bytes of the others
        that may be in memory at once.
    """

    blocks: Mapping[str, int]
    pinned: Collection[str]
    capacity: int
    _free: float = 0.0  # when the fetch thread is next free
    _there: set[str] = field(default_factory=set)
    _window: deque[list[float]] = field(default_factory=deque)  # bytes of each block, and when it is released

    def fetch(self, name: str, rate: float) -> float:
        """Fetches the block at ``rate`` bytes per second; returns when it has arrived."""
        if name in self._there:
            return 0.0
        if name in self.pinned:
            self._there.add(name)
            self._free += self.blocks[name] / rate
        else:
            self._stream(self.blocks[name], rate)
        return self._free

    def _stream(self, missing: float, rate: float) -> None:
        nbytes, room = missing, self.capacity - sum(held for held, _ in self._window)
        while missing > 0:
            part = min(room, missing)
            self._free += part / rate
            missing, room = missing - part, room - part
            if missing > 0:
                released, when = self._window.popleft()
                self._free, room = max(self._free, when), room + released
        self._window.append([nbytes, 0.0])

    def release(self, name: str, when: float) -> None:
        if name not in self.pinned:
            self._window[-1][1] = when


@dataclass(frozen=True)
class Sweep:
    """What one sweep asks of the ranks.

    rates: bytes per second that each rank reads. compute: seconds for each of its blocks. Both are in rank order.
    sums: seconds that the sum after a block takes. overlap: whether one chunk is computed while another is summed.
    """

    rates: Sequence[float]
    compute: Sequence[Mapping[str, float]]
    sums: float
    overlap: bool = False


def simulate(lanes: Sequence[Lane], sweeps: Sequence[Sweep]) -> list[float]:
    """When each of the sweeps, one after another, will have ended, in seconds from the beginning.

    The blocks that rank 0 alone has come last, and no sum follows them.
    """
    ends, now = [], 0.0
    for sweep in sweeps:
        for name in lanes[0].blocks:
            holders = [rank for rank, lane in enumerate(lanes) if name in lane.blocks]
            done = [
                max(now, lanes[rank].fetch(name, sweep.rates[rank])) + sweep.compute[rank][name] for rank in holders
            ]
            sums = sweep.sums if len(holders) == len(lanes) > 1 else 0.0
            now = max(*done, now + sums) if sweep.overlap else max(done) + sums
            for rank in holders:
                lanes[rank].release(name, now)
        ends.append(now)
    return ends
