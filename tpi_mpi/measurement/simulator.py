"""Sweeps as they will go, block by block: each rank fetches ahead as far as its window allows, and all wait for sums.

A block's fetch begins when the one before it is there, and stops where the window is full until one that was used is
released. A block is computed when it is there and the sum of the one before it is known; its own sum is there when
the slowest rank has computed its part.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Lane:
    """One rank on its way.

    blocks: bytes of each, in the order of use. pinned: those that are fetched once. capacity: bytes of the others
        that may be in memory at once.
    """

    blocks: Mapping[str, int]
    pinned: Collection[str]
    capacity: int
    _free: float = 0.0  # when the fetch thread is
    _there: set[str] = field(default_factory=set)
    _window: deque[list[float]] = field(default_factory=deque)  # of each block: bytes, and when it is released

    def fetch(self, name: str, rate: float) -> float:
        """When the block is there."""
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
    """What one sweep takes of each rank, in rank order.

    rates: bytes a second that it reads. compute: seconds for each of its blocks. sums: seconds that a sum takes.
    overlap: whether parts of a block are added up while others are computed.
    """

    rates: Sequence[float]
    compute: Sequence[Mapping[str, float]]
    sums: float
    overlap: bool = False


def simulate(lanes: Sequence[Lane], sweeps: Sequence[Sweep]) -> list[float]:
    """When each of some sweeps one after the other will have ended, in seconds from the beginning.

    The blocks that rank 0 alone has are its last, and no sum comes after them.
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
