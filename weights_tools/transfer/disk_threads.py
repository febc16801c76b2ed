"""Threads that wait for a disk in the main thread's stead, which notices when the disk hangs."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path

from tpi_mpi.weights.patience import Patience

# Between two looks at whether something is done.
_PAUSE = 2e-3

# Tells whether something that was begun is complete.
Question = Callable[[], bool]


class DiskThreads:
    """Work on one directory's disk, of which something has to be done again and again.

    pool: the threads. directory: for the message. seconds: in which something has to be done.
    """

    def __init__(self, pool: Executor, directory: Path, seconds: float):
        self._pool = pool
        self._directory = directory
        self.patience = Patience(seconds)

    def begin(self, work: Callable[..., None], *arguments) -> Question:
        """Has a thread do some work. The question raises what that raises, and DiskHung where nothing moves."""
        future = self._submit(work, *arguments)
        return lambda: self._is_done(future)

    def run(self, work: Callable, *arguments):
        """The result of some work, which calls ``patience.moved`` as it goes on; raises as :meth:`begin` does."""
        future = self._submit(work, *arguments)
        while not self._is_done(future):
            time.sleep(_PAUSE)
        return future.result()

    def _submit(self, work: Callable, *arguments) -> Future:
        self.patience.moved()
        return self._pool.submit(work, *arguments)

    def _is_done(self, future: Future) -> bool:
        if not future.done():
            self.patience.check(str(self._directory))
            return False
        self.patience.moved()
        future.result()
        return True
