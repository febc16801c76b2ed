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

from tpi_mpi.kernels.compiled.atomics import add, call, load, nanoseconds, pause, sleep_while, store, wake, yield_core
from tpi_mpi.kernels.compiled.jit import compiled, helper

# Where the numbers of the control block lie, in bytes; those that different threads write are on different cache lines.
_TICKET, _DONE, _SLEEPING, _STOPPED, _ACTIVE, _BUSY, _WAITED, _WORKED, _JOBS = 0, 64, 128, 192, 200, 256, 264, 272, 320
_JOB_BYTES = 64  # kernel, arguments, items, items in a chunk
_SIZE = _JOBS + 8 * _JOB_BYTES

# Nanoseconds for which a worker looks for a job before it sleeps, and the caller for the end of one before it yields
# its core; and how many looks there are between two at the clock.
_PATIENCE, _LOOKS = 50_000, 32
_EVERYONE = 1 << 30


@compiled
def _take_chunks(control):
    """Works on whatever job is open until none of its chunks is left; returns its number."""
    while True:
        ticket = add(control + _TICKET, 1)
        number, chunk = ticket >> 32, ticket & 0xFFFFFFFF
        job = control + _JOBS + _JOB_BYTES * (number & 7)
        kernel, arguments, items, together = load(job), load(job + 8), load(job + 16), load(job + 24)
        first = chunk * together
        # A job with a chunk left cannot end before that is done, so its place is ours. Only one whose chunks are all
        # taken may be over, and its place written anew while it was read; then the ticket has another number.
        if load(control + _TICKET) >> 32 != number or first >= items:
            return number
        stop = min(first + together, items)
        call(kernel, first, stop, arguments)
        add(control + _DONE, stop - first)


@compiled
def _work(control, index):
    """What a worker does until the pool is closed. seen: the number of the last job that it has looked into."""
    seen = 0
    while load(control + _STOPPED) == 0:
        active = load(control + _ACTIVE)
        if index >= active:
            sleep_while(control + _ACTIVE, active)
            continue
        _watch(control + _TICKET, seen << 32, (seen + 1) << 32)
        if load(control + _STOPPED) != 0:
            return
        if load(control + _TICKET) >> 32 == seen:
            add(control + _SLEEPING, 1)
            sleep_while(control + _TICKET + 4, seen & 0xFFFFFFFF)
            add(control + _SLEEPING, -1)
        else:
            seen = _take_chunks(control)


@helper
def _watch(address, first, last):
    """Looks at a number while it is from ``first`` up to ``last``, for a short time; returns whether it still is."""
    began = nanoseconds()
    while nanoseconds() - began < _PATIENCE:
        for _ in range(_LOOKS):
            if not first <= load(address) < last:
                return False
            pause()
    return True


@compiled
def run(control, kernel, arguments, items, together):
    """Has ``items`` items of work done by a kernel, ``together`` at a time, and returns when all are done.

    control: address of a pool's. kernel, arguments: addresses; see :func:`tpi_mpi.kernels.compiled.jit.kernel_address`.
    """
    if load(control + _ACTIVE) == 0 or items <= together:
        call(kernel, 0, items, arguments)
        return
    began = nanoseconds()
    store(control + _BUSY, 1)
    number = (load(control + _TICKET) >> 32) + 1
    job = control + _JOBS + _JOB_BYTES * (number & 7)
    store(job, kernel)
    store(job + 8, arguments)
    store(job + 16, items)
    store(job + 24, together)
    store(control + _DONE, 0)
    store(control + _TICKET, number << 32)
    if load(control + _SLEEPING) > 0:
        wake(control + _TICKET + 4, _EVERYONE)
    _take_chunks(control)
    finished = nanoseconds()
    if _watch(control + _DONE, 0, items):
        while load(control + _DONE) < items:
            yield_core()
    store(control + _BUSY, 0)
    store(control + _WAITED, load(control + _WAITED) + nanoseconds() - finished)
    store(control + _WORKED, load(control + _WORKED) + finished - began)


class Pool:
    """A number of threads, the caller's included. A context manager.

    control: address of what the threads share, for :func:`run`.
    """

    def __init__(self, threads: int):
        self._shared = np.zeros(_SIZE // 8 + 8, np.int64)
        self.control = -(-self._shared.ctypes.data // 64) * 64
        self._words = self._shared[(self.control - self._shared.ctypes.data) // 8 :]
        self.threads = threads
        self._count = ThreadCount(threads)
        self.use(threads)
        self._workers = [
            threading.Thread(target=_work, args=(self.control, index), name=f"kernel {index}", daemon=True)
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
        while self._words[_BUSY // 8]:
            time.sleep(1e-4)
        _stop(self.control)
        for worker in self._workers:
            if worker.ident is not None:  # it has been started
                worker.join()
        self._workers = []
        _OPEN.discard(self)

    def adapt(self) -> None:
        """Uses fewer threads where other programs keep them from their cores, and all of them again later."""
        worked, waited = int(self._words[_WORKED // 8]), int(self._words[_WAITED // 8])
        self._words[_WORKED // 8] = self._words[_WAITED // 8] = 0
        self.use(self._count.threads(worked, waited, time.monotonic()))

    def use(self, threads: int) -> None:
        """Has this many threads work, the caller's included; the others sleep."""
        if threads - 1 != self._words[_ACTIVE // 8]:
            _activate(self.control, threads - 1)


@compiled
def _activate(control, workers):
    """Lets this many workers take chunks; the others sleep."""
    store(control + _ACTIVE, workers)
    wake(control + _ACTIVE, _EVERYONE)


@compiled
def _stop(control):
    """Ends the workers: changes what they wait for, and wakes them.

    One that still looks for chunks takes the new ticket for a job: an empty one, not the old one in whose place it is.
    """
    store(control + _STOPPED, 1)
    store(control + _ACTIVE, _EVERYONE)
    wake(control + _ACTIVE, _EVERYONE)
    number = (load(control + _TICKET) >> 32) + 1
    store(control + _JOBS + _JOB_BYTES * (number & 7) + 16, 0)
    store(control + _TICKET, number << 32)
    wake(control + _TICKET + 4, _EVERYONE)


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
