"""Sweeps as they will run, block by block: each rank fetches ahead as far as its window allows, and all wait for sums.

The fetch of a block begins when the block before it has arrived, and pauses while the window is full, until a block
that was used is released. A block is computed once it has arrived and the sum after the block before it is complete;
the sum after it is complete when the slowest rank has computed its partial. Of the experts that a router asks for,
those that are not in memory are read while the others are computed, ahead of everything else that the disk has to read.
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

    def read_now(self, nbytes: float, rate: float, since: float) -> float:
        """Reads what nobody could know before the moment ``since``; returns when it has arrived."""
        self._free += nbytes / rate  # blocks come later by so much
        return since + nbytes / rate

    def release(self, name: str, when: float) -> None:
        if name not in self.pinned:
            self._window[-1][1] = when


@dataclass(frozen=True)
class Asked:
    """The experts that a block asks for: bytes of those that have to be read, and seconds that all take to compute."""

    nbytes: float
    seconds: float


_NOTHING = Asked(0.0, 0.0)


@dataclass(frozen=True)
class Sweep:
    """What one sweep asks of the ranks.

    rates: bytes per second that each rank reads. compute: seconds for each of its blocks. Both are in rank order.
    sums: seconds that the sum after a block takes. overlap: whether one chunk is computed while another is summed.
    experts: those that each of a rank's blocks asks for, if any, in rank order.
    """

    rates: Sequence[float]
    compute: Sequence[Mapping[str, float]]
    sums: float
    overlap: bool = False
    experts: Sequence[Mapping[str, Asked]] = ()

    def computed(self, rank: int, lane: Lane, name: str, now: float) -> float:
        """When the rank has computed its partial of a block that it may begin at the moment ``now``."""
        rate, seconds = self.rates[rank], self.compute[rank][name]
        begun = max(now, lane.fetch(name, rate)) + seconds
        asked = self.experts[rank].get(name, _NOTHING) if self.experts else _NOTHING
        return max(lane.read_now(asked.nbytes, rate, begun), begun + asked.seconds)


def simulate(lanes: Sequence[Lane], sweeps: Sequence[Sweep]) -> list[float]:
    """When each of the sweeps, one after another, will have ended, in seconds from the beginning.

    The blocks that rank 0 alone has come last, and no sum follows them.
    """
    ends, now = [], 0.0
    for sweep in sweeps:
        for name in lanes[0].blocks:
            holders = [rank for rank, lane in enumerate(lanes) if name in lane.blocks]
            done = [sweep.computed(rank, lanes[rank], name, now) for rank in holders]
            sums = sweep.sums if len(holders) == len(lanes) > 1 else 0.0
            now = max(*done, now + sums) if sweep.overlap else max(done) + sums
            for rank in holders:
                lanes[rank].release(name, now)
        ends.append(now)
    return ends
