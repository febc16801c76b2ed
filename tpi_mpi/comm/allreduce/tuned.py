"""Chooses among the exchanges: by what to expect from the links, then by measuring."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

import numpy as np

from tpi_mpi.comm.allreduce.base import Exchange
from tpi_mpi.comm.allreduce.direct import DirectAllreduce
from tpi_mpi.comm.allreduce.reduce_scatter import ReduceScatterAllreduce
from tpi_mpi.comm.allreduce.star import StarAllreduce
from tpi_mpi.comm.links import Link, probe_links
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import World

EXCHANGES: dict[str, type[Exchange]] = {
    "star": StarAllreduce,
    "direct": DirectAllreduce,
    "reduce-scatter": ReduceScatterAllreduce,
}
# From the number of ranks: the latencies each exchange takes, and the messages one way on its busiest link, at least.
_COSTS: dict[str, Callable[[int], tuple[int, float]]] = {
    "star": lambda size: (2, size - 1),
    "direct": lambda size: (1, size - 1),
    "reduce-scatter": lambda size: (2, 2 * (size - 1) / size),
}
# An exchange expected to take over _HOPELESS times as long as the best is not tried, unless it is expected to take
# at most _SLACK seconds.
_HOPELESS, _SLACK = 1.5, 0.5e-3
# Seconds below which a time is not resolved by any clock.
_INSTANT = 1e-9
# Each exchange is tried up to _TRIES times per round, as far as _SECONDS allow, but at least _LEAST times. There are
# several rounds, because a disturbance of one seldom lasts into the next.
_TRIES, _SECONDS, _LEAST, _ROUNDS = 12, 0.1, 2, 3


@dataclass(frozen=True)
class Trial:
    """Expected and measured times of the exchanges for messages of one size.

    rows, nbytes: size of the partial. expected: seconds of every exchange, computed from the links.
    measured: seconds of the exchanges that were tried.
    """

    rows: int
    nbytes: int
    expected: dict[str, float]
    measured: dict[str, float]

    @property
    def best(self) -> str:
        return min(self.measured, key=self.measured.__getitem__)

    def seconds(self, name: str) -> float:
        return self.measured[name] if name in self.measured else self.expected[name]


class TunedAllreduce:
    """Uses the exchange that is fastest for one row up to some number of rows, and the fastest for the most rows above.

    The links' latency and bandwidth decide which exchanges are worth trying. Those are run by all ranks together and
    compared by their time on the slowest rank. All exchanges give bitwise the same sums, so the choice changes no
    result.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        links = probe_links(world)
        self._link = slowest(links) if links else None
        self._trials = [_try(world, wire, width, rows, self._link) for rows in sorted({1, most_rows})]
        few, many = self._trials[0], self._trials[-1]
        self._limit = crossing(few, many)
        self._many = EXCHANGES[many.best](world, wire, width, most_rows)
        same = few.best == many.best
        self._few = self._many if same else EXCHANGES[few.best](world, wire, width, self._limit)

    def expect(self, rows: int) -> None:
        self._of(rows).expect(rows)

    def sum(self, partial: np.ndarray) -> np.ndarray:
        return self._of(len(partial)).sum(partial)

    def free(self) -> None:
        for exchange in {self._few, self._many}:
            exchange.free()

    def choice(self) -> dict:
        """What was chosen and why, valid as JSON. Times are in seconds, bandwidth in bytes per second."""
        return {
            "link": asdict(self._link) if self._link else None,
            "up_to_rows": self._limit,
            "trials": [asdict(trial) | {"chosen": trial.best} for trial in self._trials],
        }

    def _of(self, rows: int) -> Exchange:
        return self._few if rows <= self._limit else self._many


def describe(choice: dict) -> str:
    """One line about a choice made by :class:`TunedAllreduce`."""
    few, many = (choice["trials"][index]["chosen"] for index in (0, -1))
    what = few if few == many else f"{few} for up to {choice['up_to_rows']} tokens at once, {many} for more"
    link = choice["link"]
    if link is None:
        return f"allreduce {what}"
    return f"allreduce {what}: links take {link['latency'] * 1e3:.2f} ms and carry {link['bandwidth'] / 1e6:.0f} MB/s"


def slowest(links: list[Link]) -> Link:
    """The highest latency and the lowest bandwidth, wherever they occur: an exchange waits for both."""
    return Link(max(link.latency for link in links), min(link.bandwidth for link in links))


def expected_seconds(name: str, size: int, link: Link, nbytes: int) -> float:
    """Seconds that an exchange among ``size`` ranks takes if only the links cost time."""
    latencies, messages = _COSTS[name](size)
    return latencies * link.latency + messages * nbytes / link.bandwidth


def crossing(few: Trial, many: Trial) -> int:
    """The most rows for which the best exchange for few rows still beats the best one for many.

    Times are interpolated linearly between the two sizes. A measured time compared with one that is only expected may
    contradict which exchange is best; the gain then counts as zero.
    """
    if few.best == many.best:
        return many.rows
    gain = max(0.0, few.seconds(many.best) - few.seconds(few.best))
    loss = max(0.0, many.seconds(few.best) - many.seconds(many.best))
    return few.rows + int((many.rows - few.rows) * gain / max(gain + loss, _INSTANT))


def _try(world: World, wire: Wire, width: int, rows: int, link: Link | None) -> Trial:
    nbytes = wire.nbytes(rows * width)
    if link is None:
        return Trial(rows, nbytes, dict.fromkeys(EXCHANGES, 0.0), {"star": 0.0})
    expected = {name: expected_seconds(name, world.size, link, nbytes) for name in EXCHANGES}
    limit = max(_HOPELESS * min(expected.values()), _SLACK)
    candidates = [name for name, seconds in expected.items() if seconds <= limit]
    return Trial(rows, nbytes, expected, _measure(world, wire, width, rows, candidates))


def _measure(world: World, wire: Wire, width: int, rows: int, candidates: Sequence[str]) -> dict[str, float]:
    """For each exchange, the median seconds of one sum in a run of sums: its best round, on the slowest rank."""
    rounds = [
        {name: _median(world, EXCHANGES[name](world, wire, width, rows), rows, width) for name in candidates}
        for _ in range(_ROUNDS if len(candidates) > 1 and rows == 1 else 1)
    ]
    own = {name: min(found[name] for found in rounds) for name in candidates}
    gathered = world.gather(own)
    return world.broadcast(gathered and {name: max(rank[name] for rank in gathered) for name in candidates})


def _median(world: World, exchange: Exchange, rows: int, width: int) -> float:
    """The median seconds, on this rank, of one sum in a run of sums. Frees the exchange."""
    partial = np.zeros((rows, width), np.float32)
    began = perf_counter()
    exchange.sum(partial)  # builds the plan, and faults in the buffers' pages
    first = perf_counter() - began
    taken = []
    for _ in range(world.broadcast(max(_LEAST, min(_TRIES, int(_SECONDS / first))))):
        began = perf_counter()
        exchange.sum(partial)
        taken.append(perf_counter() - began)
    exchange.free()
    return median(taken)
