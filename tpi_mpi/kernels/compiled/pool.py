"""The threads that multiply: they wait for work inside compiled code, where handing it over costs about 1 us.

                  ticket: number of the job │ next chunk
    caller   ── publishes a job, sets the ticket ──┐
    caller and workers ── claim chunks, one atomic addition each ── until none is left
    caller   ── waits until all chunks are done, not for the workers

A worker that finds no job for some 50 us sleeps. Beside other busy programs a worker may lose its core in the middle of
a chunk, for which the caller then waits; when such waits grow, the pool does with fewer threads for a while.
"""

import atexit
import threading
import time

import numpy as np

from tpi_mpi.kernels.compiled import functions
from tpi_mpi.kernels.records.pool import ACTIVE, BUSY, SIZE, WAITED, WORKED


class Pool:
    """A number of threads, the caller's included. A context manager.

    control: address of what the threads share, for :data:`tpi_mpi.kernels.compiled.functions.RUN`.
    """

    def __init__(self, threads: int):
        self._shared = np.zeros(SIZE // 8 + 8, np.int64)
        self.control = -(-self._shared.ctypes.data // 64) * 64
        self._words = self._shared[(self.control - self._shared.ctypes.data) // 8 :]
        self.threads = threads
        self._count = ThreadCount(threads)
        self.use(threads)
        self._workers = [
            threading.Thread(
                target=functions.WORK.call, args=(self.control, index), name=f"kernel {index}", daemon=True
            )
            for index in range(threads - 1)
        ]
        _OPEN.add(self)
        try:
            for worker in self._workers:
                worker.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads, once a job that another thread runs is over; may be called more than once."""
        while self._words[BUSY // 8]:
            time.sleep(1e-4)
        functions.STOP.call(self.control)
        for worker in self._workers:
            if worker.ident is not None:  # it has been started
                worker.join()
        self._workers = []
        _OPEN.discard(self)

    def adapt(self) -> None:
        """Uses fewer threads where other programs keep them from their cores, and all of them again later."""
        worked, waited = int(self._words[WORKED // 8]), int(self._words[WAITED // 8])
        self._words[WORKED // 8] = self._words[WAITED // 8] = 0
        self.use(self._count.threads(worked, waited, time.monotonic()))

    def use(self, threads: int) -> None:
        """Has this many threads work, the caller's included; the others sleep."""
        if threads - 1 != self._words[ACTIVE // 8]:
            functions.ACTIVATE.call(self.control, threads - 1)


class ThreadCount:
    """Decides how many threads to use, from how long the caller waited for the others.

    A thread too many costs a wait of milliseconds each time that another program takes its core; one too few costs only
    its part of the work. So one is given up as soon as waits are long, and tried again after a pause, which doubles
    each time that it turns out to have been too early.
    """

    # Waits are a few percent of the time on a quiet machine, and half of it beside one busy core.
    LONG = 0.2
    LEAST_PAUSE, MOST_PAUSE = 0.25, 8.0
    # Work too short to judge from, in nanoseconds.
    LEAST = 2_000_000

    def __init__(self, threads: int):
        self._most = self._used = threads
        self._pause = self.LEAST_PAUSE
        self._again = 0.0

    def threads(self, worked: int, waited: int, now: float) -> int:
        """The number to use from ``now`` (seconds) on, after ``worked`` and ``waited`` nanoseconds."""
        if self._used > 1 and worked + waited > self.LEAST and waited > self.LONG * (worked + waited):
            self._used -= 1
            self._again = now + self._pause
            self._pause = min(2 * self._pause, self.MOST_PAUSE)
        elif self._used < self._most and now >= self._again:
            self._used += 1
        elif self._used == self._most and now >= self._again + self._pause:
            self._pause = self.LEAST_PAUSE
        return self._used


_OPEN: set[Pool] = set()


@atexit.register
def _close_all() -> None:
    """Threads still inside compiled code when the interpreter frees it would crash."""
    for pool in list(_OPEN):
        pool.close()
