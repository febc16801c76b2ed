"""What the point-to-point allreduces have in common: shapes, buffers, and the order of addition."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import World

# Sweeps have ever other numbers of rows, as sequences come and go; those of late are likely to come again.
_MAX_SHAPES = 32


@dataclass(frozen=True)
class Plan:
    """What an exchange prepares for partials of one shape, so that a sum only has to go through it.

    receives: persistent requests that are posted early. sends: those that are started when their messages are ready.
    """

    receives: list
    sends: list

    def free(self) -> None:
        for request in (*self.receives, *self.sends):
            request.Free()


class Addition:
    """Adds up the ranks' messages in rank order, waiting for each in turn.

    total: float32 (count,), overwritten. messages: one per rank, this rank's own included.
    receives: those of the other ranks' messages, in rank order. rank: this one.
    """

    def __init__(self, wire: Wire, total: np.ndarray, messages: Sequence[np.ndarray], receives: Sequence, rank: int):
        awaited = [[receive] for receive in receives]
        self._steps = list(zip(messages, [*awaited[:rank], [], *awaited[rank:]], strict=True))
        self._wire, self._total = wire, total

    def __call__(self) -> np.ndarray:
        """Returns the total."""
        decode = self._wire.copy
        for message, awaited in self._steps:
            if awaited:
                wait(awaited)
            decode(message, self._total)
            decode = self._wire.add
        return self._total


class Exchange(ABC):
    """A sum of partials (T, width) over the ranks, with a plan that is built once for each T.

    Every exchange adds the partials in rank order and in float32, and passes the sum through the wire as well, so all
    exchanges give bitwise the same result, and equal inputs give equal sums. Buffers are allocated once.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        self.comm, self.rank, self.size = world.comm, world.rank, world.size
        self.wire = wire
        self.most = width * most_rows  # numbers of the largest partial
        self._plans = Plans(lambda rows: self.build(rows * width))
        self._expected: int | None = None

    def expect(self, rows: int) -> None:
        """Posts the receives of the next sum, so that messages that arrive early find their buffers.

        Optional. If called, the next sum must have the same number of rows.
        """
        start(self._plans.of(rows).receives)
        self._expected = rows

    def sum(self, partial: np.ndarray) -> np.ndarray | None:
        """The sum (T, width) in float32; None on a rank that gets none. Valid until the next call."""
        total = self.run(partial, self.take(len(partial)))
        return None if total is None else total.reshape(partial.shape)

    def take(self, rows: int) -> Plan:
        """The plan of the next sum, with its receives posted."""
        if self._expected is None:
            self.expect(rows)
        assert self._expected == rows, f"a sum of {rows} rows, where {self._expected} were expected"
        self._expected = None
        return self._plans.of(rows)

    def choice(self) -> dict | None:
        """None: there was nothing to choose."""
        return None

    def free(self) -> None:
        """Frees the MPI requests; the object cannot be used afterwards."""
        self._plans.free()

    @abstractmethod
    def build(self, count: int) -> Plan:
        """Prepares sums of partials of ``count`` numbers."""

    @abstractmethod
    def run(self, partial: np.ndarray, plan: Plan) -> np.ndarray | None:
        """Sends and adds up; the receives are posted already. Returns the sum (count,), or None where there is none."""

    def messages(self, *number: int) -> np.ndarray:
        """A buffer for one message of the largest partial, or for ``number`` of them."""
        return np.empty((*number, self.wire.nbytes(self.most)), np.uint8)

    def byte_range(self, first: int, last: int) -> slice:
        """The bytes of a message that hold numbers ``first`` to ``last``: bounds of the wire's groups, or the end."""
        return slice(self.wire.nbytes(first), self.wire.nbytes(last))

    def others(self) -> list[int]:
        """All other ranks, starting after this one: sent in this order, messages do not queue up at a receiver."""
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def addition(self, total: np.ndarray, messages: Sequence[np.ndarray], receives: Sequence) -> Addition:
        """What adds up messages with this wire, on this rank."""
        return Addition(self.wire, total, messages, receives, self.rank)


class Plans:
    """The plans of one exchange by number of rows, at most _MAX_SHAPES: the least recently used are freed.

    build: given a number of rows, returns the plan.
    """

    def __init__(self, build: Callable[[int], Plan]):
        self._build = build
        self._built: dict[int, Plan] = {}

    def of(self, rows: int) -> Plan:
        plan = self._built.pop(rows, None)
        if plan is None:
            if len(self._built) == _MAX_SHAPES:
                self._built.pop(next(iter(self._built))).free()
            plan = self._build(rows)
        self._built[rows] = plan  # moved to the end: the dict is in order of use
        return plan

    def free(self) -> None:
        """Frees all requests."""
        while self._built:
            self._built.popitem()[1].free()


def start(requests: Sequence) -> None:
    if requests:
        requests[0].Startall(requests)
