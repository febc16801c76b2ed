"""The choice among the exchanges: by what the links give, and by trying."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

import torch

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
# Latencies, and messages one way on the busiest link, that each takes at least; of the number of ranks.
_COSTS: dict[str, Callable[[int], tuple[int, float]]] = {
    "star": lambda size: (2, size - 1),
    "direct": lambda size: (1, size - 1),
    "reduce-scatter": lambda size: (2, 2 * (size - 1) / size),
}
# What is expected to take so many times as long as the best is not tried; below so many seconds, everything is.
_HOPELESS, _SLACK = 1.5, 0.5e-3
# No clock tells less apart.
_INSTANT = 1e-9
# How often each is tried in a round, as far as this many seconds go, and at least. What is disturbed in one round is
# seldom so in another.
_TRIES, _SECONDS, _LEAST, _ROUNDS = 12, 0.1, 2, 3


@dataclass(frozen=True)
class Trial:
    """What was found out about messages of one size.

    rows, nbytes: of the partial. expected: seconds by the links, of all exchanges. measured: of those that were tried.
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
    """Takes the fastest exchange for messages of one row, and for the largest; in between, whichever of the two.

    The links' latency and bandwidth tell what is worth trying; what was tried, by all ranks together, is compared by
    its time on the slowest rank. As all exchanges give bitwise the same, the choice changes no result.
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

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        return self._of(len(partial)).sum(partial)

    def free(self) -> None:
        for exchange in {self._few, self._many}:
            exchange.free()

    def choice(self) -> dict:
        """What was chosen, and why: seconds, and bytes a second."""
        return {
            "link": asdict(self._link) if self._link else None,
            "up_to_rows": self._limit,
            "trials": [asdict(trial) | {"chosen": trial.best} for trial in self._trials],
        }

    def _of(self, rows: int) -> Exchange:
        return self._few if rows <= self._limit else self._many


def describe(choice: dict) -> str:
    """A choice in one line."""
    few, many = (choice["trials"][index]["chosen"] for index in (0, -1))
    what = few if few == many else f"{few} for up to {choice['up_to_rows']} tokens at once, {many} for more"
    link = choice["link"]
    if link is None:
        return f"allreduce {what}"
    return f"allreduce {what}: links take {link['latency'] * 1e3:.2f} ms and {link['bandwidth'] / 1e6:.0f} MB/s"


def slowest(links: list[Link]) -> Link:
    """What an exchange has to wait for, wherever it is."""
    return Link(max(link.latency for link in links), min(link.bandwidth for link in links))


def expected_seconds(name: str, size: int, link: Link, nbytes: int) -> float:
    """What an exchange among so many ranks takes where links are all there is."""
    latencies, messages = _COSTS[name](size)
    return latencies * link.latency + messages * nbytes / link.bandwidth


def crossing(few: Trial, many: Trial) -> int:
    """Up to how many rows the best for few is better than the best for many, times being linear in between.

    Where one of two times was measured and the other is only expected, they may contradict who is best: then neither
    gains anything over the other.
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
    """Seconds of one of several sums in a row, on the slowest rank, by the exchange; in its best round."""
    rounds = [
        {name: _median(world, EXCHANGES[name](world, wire, width, rows), rows, width) for name in candidates}
        for _ in range(_ROUNDS if len(candidates) > 1 and rows == 1 else 1)
    ]
    own = {name: min(found[name] for found in rounds) for name in candidates}
    gathered = world.gather(own)
    return world.broadcast(gathered and {name: max(rank[name] for rank in gathered) for name in candidates})


def _median(world: World, exchange: Exchange, rows: int, width: int) -> float:
    """Seconds of one of several sums in a row on this rank."""
    partial = torch.zeros(rows, width)
    began = perf_counter()
    exchange.sum(partial)  # builds the requests, and has the pages backed
    first = perf_counter() - began
    taken = []
    for _ in range(world.broadcast(max(_LEAST, min(_TRIES, int(_SECONDS / first))))):
        began = perf_counter()
        exchange.sum(partial)
        taken.append(perf_counter() - began)
    exchange.free()
    return median(taken)
