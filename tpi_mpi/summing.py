"""The sums of a sweep: made at once, or on a thread of their own while the next chunk of a prompt is computed."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from tpi_mpi.allreduce import Allreduce
from tpi_mpi.timeline import Timeline

# Sums on their way or waiting for it, each with a partial in memory.
_MOST_PENDING = 2


class Summing:
    """Adds to hidden states the sums over the ranks of what was computed of them. A context manager.

    allreduce: makes the sums, one after the other, in the same order on every rank.
    """

    def __init__(self, allreduce: Allreduce, timeline: Timeline):
        self._allreduce = allreduce
        self._timeline = timeline
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="summing")
        self._pending: deque[tuple[torch.Tensor, Future]] = deque()

    def __enter__(self) -> "Summing":
        return self

    def __exit__(self, *exception) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def expect(self, rows: int) -> None:
        """Tells, before a partial of so many rows is computed, that it will be added at once."""
        assert not self._pending, "sums that are still on their way would be mistaken for the next"
        self._allreduce.expect(rows)

    def add(self, name: str, states: torch.Tensor, partial: torch.Tensor) -> None:
        """Adds the sum of all ranks' partials (T, width) to the states; returns when that is done."""
        with self._timeline.span("allreduce", name):
            states += self._allreduce.sum(partial)

    def add_later(self, name: str, states: torch.Tensor, partial: torch.Tensor) -> None:
        """Begins the same. The states may be used again after :meth:`settle`."""
        while len(self._pending) >= _MOST_PENDING:
            self._settle_first()
        self._pending.append((states, self._thread.submit(self.add, name, states, partial)))

    def settle(self, states: torch.Tensor) -> None:
        """Returns when nothing is left to be added to these states."""
        while any(pending is states for pending, _ in self._pending):
            self._settle_first()

    def _settle_first(self) -> None:
        self._pending.popleft()[1].result()
