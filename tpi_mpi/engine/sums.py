"""The sums of a sweep: made at once, or on a thread of their own while the next chunk of a prompt is computed."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from tpi_mpi.comm.allreduce.algorithms import Allreduce
from tpi_mpi.comm.allreduce.star import StarReduce
from tpi_mpi.common.trace import Trace

# Sums on their way or waiting for it, each with a partial in memory.
_MOST_PENDING = 2


class Sums:
    """Adds to hidden states the sums over the ranks of what was computed of them. A context manager.

    allreduce: makes the sums, one after the other, in the same order on every rank.
    reduce: makes those that rank 0 alone needs.
    """

    def __init__(self, allreduce: Allreduce, reduce: StarReduce, trace: Trace):
        self._allreduce = allreduce
        self._reduce = reduce
        self._trace = trace
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sums")
        self._pending: deque[tuple[torch.Tensor, Future]] = deque()

    def __enter__(self) -> "Sums":
        return self

    def __exit__(self, error_type, *exception) -> None:
        """Frees the MPI requests; not after an error, since the thread may still ask after one that never completes."""
        self._thread.shutdown(wait=error_type is None, cancel_futures=True)
        if error_type is None:
            self._allreduce.free()
            self._reduce.free()

    def expect(self, rows: int) -> None:
        """Tells, before a partial of so many rows is computed, that it will be added at once."""
        assert not self._pending, "sums that are still on their way would be mistaken for the next"
        self._allreduce.expect(rows)

    def add(self, name: str, states: torch.Tensor, partial: torch.Tensor) -> None:
        """Adds the sum of all ranks' partials (T, width) to the states; returns when that is done."""
        with self._trace.span("allreduce", name):
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

    def expect_on_root(self, rows: int) -> None:
        """As :meth:`expect`, of a partial for :meth:`add_on_root`."""
        self._reduce.expect(rows)

    def add_on_root(self, name: str, states: torch.Tensor, partial: torch.Tensor) -> None:
        """As :meth:`add`, on rank 0 alone: the others send theirs, and wait for nothing."""
        with self._trace.span("allreduce", name):
            total = self._reduce.sum(partial)
        if total is not None:
            states += total

    def _settle_first(self) -> None:
        self._pending.popleft()[1].result()
