"""Threads that wait for a disk in place of the main thread, which notices when the disk hangs."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path

from tpi_mpi.weights.patience import Patience

# Seconds between two checks of whether something is done.
_PAUSE = 2e-3

# Returns whether something that was begun is complete.
Question = Callable[[], bool]


class DiskThreads:
    """Work on one directory's disk, which has to make some progress all the time.

    pool: the threads. directory: for the message. seconds: without any progress after which the disk counts as hung.
    """

    def __init__(self, pool: Executor, directory: Path, seconds: float):
        self._pool = pool
        self._directory = directory
        self.patience = Patience(seconds)

    def begin(self, work: Callable[..., None], *arguments) -> Question:
        """Begins some work on a thread. The question raises what the work raises, and DiskHung if nothing moves."""
        future = self._submit(work, *arguments)
        return lambda: self._is_done(future)

    def run(self, work: Callable, *arguments):
        """Returns the result of work that calls ``patience.moved`` as it progresses; raises what its question would."""
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
