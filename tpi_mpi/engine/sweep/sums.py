"""A sweep's sums over the ranks: at once, or on a thread of their own while the next chunk of a prompt is computed."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from tpi_mpi.comm.allreduce.algorithms import Allreduce
from tpi_mpi.comm.allreduce.star import StarReduce
from tpi_mpi.common.trace import Trace

# Sums under way or queued, each of which keeps a partial in memory.
_MOST_PENDING = 2


class Sums:
    """Sums partials over the ranks, and adds the sums to the hidden states. A context manager.

    allreduce: computes the sums, one after another, in the same order on every rank; None where a rank is alone.
    reduce: computes those that rank 0 alone needs; None likewise.
    """

    def __init__(self, allreduce: Allreduce | None, reduce: StarReduce | None, trace: Trace):
        self._allreduce = allreduce
        self._alone = reduce is None or reduce.size == 1  # then a partial is the sum, and there is nothing to expect
        self._reduce = reduce
        self._trace = trace
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sums")
        self._pending: deque[tuple[np.ndarray, Future]] = deque()

    def __enter__(self) -> "Sums":
        return self

    def __exit__(self, error_type, *exception) -> None:
        """Frees the MPI requests, but not after an error: the thread may still wait for one that never completes."""
        self._thread.shutdown(wait=error_type is None, cancel_futures=True)
        if error_type is None:
            for exchange in filter(None, (self._allreduce, self._reduce)):
                exchange.free()

    def expect(self, rows: int) -> None:
        """Posts the receives of the next sum, before its partial (rows, width) is computed; :meth:`add` must follow."""
        assert not self._pending, "sums that are still on their way would be mistaken for the next"
        if not self._alone:
            self._allreduce.expect(rows)

    def add(self, name: str, states: np.ndarray, partial: np.ndarray) -> None:
        """Adds the sum of all ranks' partials (T, width) to the states (T, width); returns when that is done."""
        with self._trace.span("allreduce", name):
            states += partial if self._alone else self._allreduce.sum(partial)

    def add_later(self, name: str, states: np.ndarray, partial: np.ndarray) -> None:
        """Does the same in the background. The states may be used again after :meth:`settle`."""
        while len(self._pending) >= _MOST_PENDING:
            self._settle_first()
        self._pending.append((states, self._thread.submit(self.add, name, states, partial)))

    def settle(self, states: np.ndarray) -> None:
        """Returns when everything pending has been added to these states."""
        while any(pending is states for pending, _ in self._pending):
            self._settle_first()

    def expect_on_root(self, rows: int) -> None:
        """Like :meth:`expect`, for :meth:`add_on_root`."""
        if not self._alone:
            self._reduce.expect(rows)

    def add_on_root(self, name: str, states: np.ndarray, partial: np.ndarray) -> None:
        """Like :meth:`add`, on rank 0 alone: the other ranks send their partials, and wait for nothing."""
        with self._trace.span("allreduce", name):
            total = partial if self._alone else self._reduce.sum(partial)
        if total is not None:
            states += total

    def _settle_first(self) -> None:
        self._pending.popleft()[1].result()
