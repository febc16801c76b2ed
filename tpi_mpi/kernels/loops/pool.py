"""What the threads of a pool do; see :mod:`tpi_mpi.kernels.compiled.pool`. control: the address of what they share."""

import numpy as np

from tpi_mpi.kernels.loops.atomics import add, call, load, nanoseconds, pause, sleep_while, store, wake, yield_core
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at
from tpi_mpi.kernels.records.pool import (
    ACTIVE,
    BUSY,
    DONE,
    EVERYONE,
    JOB_BYTES,
    JOBS,
    SLEEPING,
    STOPPED,
    TICKET,
    WAITED,
    WORKED,
)

# Nanoseconds for which a worker looks for a job before it sleeps, and the caller for the end of one before it yields
# its core; and how many looks there are between two at the clock.
_PATIENCE, _LOOKS = 50_000, 32


@helper
def _take_chunks(control):
    """Works on whatever job is open until none of its chunks is left; returns its number."""
    while True:
        ticket = add(control + TICKET, 1)
        number, chunk = ticket >> 32, ticket & 0xFFFFFFFF
        job = control + JOBS + JOB_BYTES * (number & 7)
        kernel, arguments, items, together = load(job), load(job + 8), load(job + 16), load(job + 24)
        first = chunk * together
        # A job with a chunk left cannot end before that is done, so its place is ours. Only one whose chunks are all
        # taken may be over, and its place written anew while it was read; then the ticket has another number.
        if load(control + TICKET) >> 32 != number or first >= items:
            return number
        stop = min(first + together, items)
        call(kernel, first, stop, arguments)
        add(control + DONE, stop - first)


def work(control, index):
    """What a worker does until the pool is closed. seen: the number of the last job that it has looked into."""
    seen = 0
    while load(control + STOPPED) == 0:
        active = load(control + ACTIVE)
        if index >= active:
            sleep_while(control + ACTIVE, active)
            continue
        _watch(control + TICKET, seen << 32, (seen + 1) << 32)
        if load(control + STOPPED) != 0:
            return
        if load(control + TICKET) >> 32 == seen:
            add(control + SLEEPING, 1)
            sleep_while(control + TICKET + 4, seen & 0xFFFFFFFF)
            add(control + SLEEPING, -1)
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


def run(control, kernel, arguments, items, together):
    """Has ``items`` items of work done by a kernel, ``together`` at a time, and returns when all are done.

    kernel: its address. arguments: what it is given after the first item of its work and the end of it.
    """
    store(control + BUSY, 1)
    do(control, kernel, arguments, items, together)
    store(control + BUSY, 0)


def execute(control, steps, count):
    """Runs steps one after another: each a kernel, its arguments, items, and how many are done at a time."""
    table = array_at(steps, 4 * count, np.int64)
    store(control + BUSY, 1)
    for at in range(0, 4 * count, 4):
        do(control, table[at], table[at + 1], table[at + 2], table[at + 3])
    store(control + BUSY, 0)


@helper
def do(control, kernel, arguments, items, together):
    """What :func:`run` does, once the pool counts as busy."""
    if load(control + ACTIVE) == 0 or items <= together:
        call(kernel, 0, items, arguments)
        return
    began = nanoseconds()
    number = (load(control + TICKET) >> 32) + 1
    job = control + JOBS + JOB_BYTES * (number & 7)
    store(job, kernel)
    store(job + 8, arguments)
    store(job + 16, items)
    store(job + 24, together)
    store(control + DONE, 0)
    store(control + TICKET, number << 32)
    if load(control + SLEEPING) > 0:
        wake(control + TICKET + 4, EVERYONE)
    _take_chunks(control)
    finished = nanoseconds()
    if _watch(control + DONE, 0, items):
        while load(control + DONE) < items:
            yield_core()
    store(control + WAITED, load(control + WAITED) + nanoseconds() - finished)
    store(control + WORKED, load(control + WORKED) + finished - began)


def activate(control, workers):
    """Lets this many workers take chunks; the others sleep."""
    store(control + ACTIVE, workers)
    wake(control + ACTIVE, EVERYONE)


def stop(control):
    """Ends the workers: changes what they wait for, and wakes them.

    One that still looks for chunks takes the new ticket for a job: an empty one, not the old one in whose place it is.
    """
    store(control + STOPPED, 1)
    store(control + ACTIVE, EVERYONE)
    wake(control + ACTIVE, EVERYONE)
    number = (load(control + TICKET) >> 32) + 1
    store(control + JOBS + JOB_BYTES * (number & 7) + 16, 0)
    store(control + TICKET, number << 32)
    wake(control + TICKET + 4, EVERYONE)
