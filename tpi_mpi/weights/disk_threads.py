"""Threads that wait for a disk on behalf of the main thread, which notices if the disk hangs."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait

from tpi_mpi.weights.patience import Patience

# Tells whether something that was begun is complete.
Question = Callable[[], bool]


class DiskThreads:
    """Has threads do work on a disk, and watches that some of it gets done.

    pool: the threads. what: what is on the disk, for the message. seconds: in which something must get done.
    """

    def __init__(self, pool: Executor, what: str, seconds: float):
        self._pool = pool
        self._what = what
        self.patience = Patience(seconds)

    def begin(self, work: Callable[..., None], *arguments) -> Question:
        """Starts some work. The question raises what the work raises, and DiskHung if nothing gets done."""
        future = self._submit(work, *arguments)
        return lambda: self._is_done(future)

    def run(self, work: Callable, *arguments):
        """The result of some work, which calls ``patience.moved`` as it goes on. Raises as :meth:`begin` says."""
        future = self._submit(work, *arguments)
        while not self._is_done(future):
            wait([future], self.patience.interval)
        return future.result()

    def _submit(self, work: Callable, *arguments) -> Future:
        self.patience.moved()
        return self._pool.submit(work, *arguments)

    def _is_done(self, future: Future) -> bool:
        if not future.done():
            self.patience.check(self._what)
            return False
        self.patience.moved()
        future.result()
        return True
