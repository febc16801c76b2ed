"""Laws of the pool: every item is done once, whatever the threads; waits for a lost core end."""

import threading
import time
from functools import cache

import numpy as np
import pytest
from numba import cfunc, types

from tpi_mpi.kernels.compiled.functions import RUN
from tpi_mpi.kernels.compiled.pool import Pool, ThreadCount
from tpi_mpi.kernels.loops.memory import array_at

MILLISECOND = 1_000_000
run = RUN.call


@cache
def kernel_address(function) -> int:
    """The address of what a pool runs."""
    _KEPT.append(cfunc(types.void(types.int64, types.int64, types.int64))(function))
    return _KEPT[-1].address


_KEPT: list = []


def count_items(first, stop, address):
    counts = array_at(address, stop, np.int64)
    for item in range(first, stop):
        counts[item] += 1


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize(("items", "together"), [(1, 1), (7, 2), (1000, 1), (1000, 64), (5, 100)])
def test_every_item_is_done_once(threads, items, together):
    kernel, counts = kernel_address(count_items), np.zeros(items, np.int64)
    with Pool(threads) as pool:
        for _ in range(200):
            run(pool.control, kernel, counts.ctypes.data, items, together)
    assert (counts == 200).all()


def test_workers_that_slept_are_woken():
    kernel, counts = kernel_address(count_items), np.zeros(64, np.int64)
    with Pool(3) as pool:
        for _ in range(20):
            time.sleep(0.005)  # much longer than they look for work
            run(pool.control, kernel, counts.ctypes.data, 64, 1)
    assert (counts == 20).all()


def test_idle_workers_use_no_core():
    with Pool(3):
        time.sleep(0.05)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.02


def test_closing_ends_the_threads():
    before = threading.active_count()
    pool = Pool(4)
    assert threading.active_count() == before + 3
    pool.close()
    pool.close()
    assert threading.active_count() == before


def test_closing_repeats_no_job():
    kernel, counts = kernel_address(count_items), np.zeros(64, np.int64)
    for _ in range(100):
        with Pool(3) as pool:
            for _ in range(16):  # more than there are places for
                run(pool.control, kernel, counts.ctypes.data, 64, 1)
    assert (counts == 1600).all()


def test_a_pool_with_fewer_active_threads_still_does_everything():
    kernel, counts = kernel_address(count_items), np.zeros(100, np.int64)
    with Pool(3) as pool:
        for active in (1, 2, 3, 1):
            pool.use(active)
            for _ in range(50):
                run(pool.control, kernel, counts.ctypes.data, 100, 3)
    assert (counts == 200).all()


def test_long_waits_cost_a_thread_and_it_comes_back_later():
    count = ThreadCount(3)
    assert count.threads(90 * MILLISECOND, 10 * MILLISECOND, 0.0) == 3
    assert count.threads(50 * MILLISECOND, 50 * MILLISECOND, 1.0) == 2
    assert count.threads(50 * MILLISECOND, 50 * MILLISECOND, 1.1) == 1
    assert count.threads(100 * MILLISECOND, 0, 1.2) == 1
    assert count.threads(100 * MILLISECOND, 0, 2.0) == 2
    assert count.threads(100 * MILLISECOND, 0, 2.1) == 3


def test_the_pause_doubles_while_the_core_stays_lost():
    count, now, lost = ThreadCount(2), 0.0, []
    while now < 20:
        busy = count.threads(50 * MILLISECOND, 50 * MILLISECOND, now)
        if busy == 1 and (not lost or lost[-1][1]):
            lost.append((now, False))
        again = count.threads(100 * MILLISECOND, 0, now)
        if again == 2 and lost and not lost[-1][1]:
            lost[-1] = (lost[-1][0], True)
        now += 0.05
    gaps = np.diff([when for when, _ in lost])
    assert gaps[-1] > 4 * gaps[0]


def test_short_work_is_not_judged():
    count = ThreadCount(2)
    assert count.threads(1000, 9000, 0.0) == 2
