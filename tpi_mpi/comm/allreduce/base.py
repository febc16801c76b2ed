"""What the point-to-point allreduces have in common: shapes, buffers, and the order of addition."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.wire import Wire
from tpi_mpi.comm.world import World

# One for a decoded token, one for a full chunk of a prompt, a few for the last chunks of prompts.
_MAX_SHAPES = 8


class Exchange(ABC):
    """A sum of partials (T, width) over the ranks, with persistent requests that are built once for each T.

    Every exchange adds the partials in rank order and in float32, and passes the sum through the wire as well, so all
    exchanges give bitwise the same result, and equal inputs give equal sums. Buffers are allocated once.
    """

    def __init__(self, world: World, wire: Wire, width: int, most_rows: int):
        self.comm, self.rank, self.size = world.comm, world.rank, world.size
        self.wire = wire
        self.most = width * most_rows  # numbers of the largest partial
        self._requests = Requests(lambda rows: self.build(rows * width))
        self._expected: int | None = None

    def expect(self, rows: int) -> None:
        """Posts the receives of the next sum, so that messages that arrive early find their buffers.

        Optional. If called, the next sum must have the same number of rows.
        """
        start(self._requests.of(rows)[0])
        self._expected = rows

    def sum(self, partial: torch.Tensor) -> torch.Tensor | None:
        """The sum (T, width) in float32; None on a rank that gets none. Valid until the next call."""
        total = self.run(partial, *self.take(len(partial)))
        return None if total is None else total.view(partial.shape)

    def take(self, rows: int) -> tuple[list, ...]:
        """The requests of the next sum, with its receives posted."""
        if self._expected is None:
            self.expect(rows)
        assert self._expected == rows, f"a sum of {rows} rows, where {self._expected} were expected"
        self._expected = None
        return self._requests.of(rows)

    def choice(self) -> dict | None:
        """None: there was nothing to choose."""
        return None

    def free(self) -> None:
        """Frees the MPI requests; the object cannot be used afterwards."""
        self._requests.free()

    @abstractmethod
    def build(self, count: int) -> tuple[list, ...]:
        """Lists of persistent requests for partials of ``count`` numbers. The first list is receives, posted early."""

    @abstractmethod
    def run(self, partial: torch.Tensor, receives: list, *requests: list) -> torch.Tensor | None:
        """Sends and adds up; the receives are posted already. Returns the sum (count,), or None where there is none."""

    def messages(self, *number: int) -> torch.Tensor:
        """A buffer for one message of the largest partial, or for ``number`` of them."""
        return torch.empty(*number, self.wire.nbytes(self.most), dtype=torch.uint8)

    def byte_range(self, first: int, last: int) -> slice:
        """The bytes of a message that hold numbers ``first`` to ``last``: bounds of the wire's groups, or the end."""
        return slice(self.wire.nbytes(first), self.wire.nbytes(last))

    def others(self) -> list[int]:
        """All other ranks, starting after this one: sent in this order, messages do not queue up at a receiver."""
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def add_up(self, total: torch.Tensor, messages: Sequence[torch.Tensor], receives: Sequence) -> torch.Tensor:
        """Adds up the ranks' messages in rank order, waiting for each in turn.

        total: float32 (count,), overwritten and returned. messages: one per rank, this rank's own included.
        receives: those of the other ranks' messages, in rank order.
        """
        arrivals = [*receives[: self.rank], None, *receives[self.rank :]]
        for rank, (message, arrival) in enumerate(zip(messages, arrivals, strict=True)):
            if arrival is not None:
                wait([arrival])
            (total.add_ if rank else total.copy_)(self.wire.read(message, len(total)))
        return total


class Requests:
    """The requests of one algorithm by number of rows, at most _MAX_SHAPES: the least recently used are freed.

    build: given a number of rows, returns lists of requests; those of a list are started and awaited together.
    """

    def __init__(self, build: Callable[[int], tuple[list, ...]]):
        self._build = build
        self._built: dict[int, tuple[list, ...]] = {}

    def of(self, rows: int) -> tuple[list, ...]:
        requests = self._built.pop(rows, None)
        if requests is None:
            if len(self._built) == _MAX_SHAPES:
                _free(self._built.pop(next(iter(self._built))))
            requests = self._build(rows)
        self._built[rows] = requests  # moved to the end: the dict is in order of use
        return requests

    def free(self) -> None:
        """Frees all requests."""
        while self._built:
            _free(self._built.popitem()[1])


def start(requests: Sequence) -> None:
    if requests:
        requests[0].Startall(requests)


def _free(lists: tuple[list, ...]) -> None:
    for requests in lists:
        for request in requests:
            request.Free()
