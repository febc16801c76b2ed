"""Sums proceed in the background, and are complete when they are asked for."""

import threading
import time

import numpy as np
import pytest

from tpi_mpi.common.trace import Trace
from tpi_mpi.engine.sweep.sums import Sums


class Gated:
    """An allreduce that waits to be let through."""

    def __init__(self):
        self.gate, self.done, self.freed = threading.Event(), 0, False

    def expect(self, rows: int) -> None:
        pass

    def free(self) -> None:
        self.freed = True

    def sum(self, partial: np.ndarray) -> np.ndarray:
        assert self.gate.wait(timeout=20)
        self.done += 1
        return 2 * partial


class Idle:
    """A reduce that is never used."""

    size = 2

    def free(self) -> None:
        pass


@pytest.fixture
def gated():
    made = Gated()
    yield made
    made.gate.set()


def test_a_sum_that_is_added_later_keeps_no_one_waiting(gated):
    with Sums(gated, Idle(), Trace()) as sums:
        first, second = np.zeros((2, 3), np.float32), np.zeros((1, 3), np.float32)
        sums.add_later("block", first, np.ones((2, 3), np.float32))
        sums.add_later("block", second, np.ones((1, 3), np.float32))
        assert gated.done == 0
        assert (first == 0).all()
        gated.gate.set()
        sums.settle(second)  # and with it what was begun before
        assert gated.done == 2
        assert (first == 2).all()
        assert (second == 2).all()
        sums.settle(first)


def test_what_stops_a_sum_is_raised_where_it_is_asked_for(gated):
    def fail(partial):
        raise RuntimeError("no such rank")

    gated.sum = fail
    with Sums(gated, Idle(), Trace()) as sums:
        states = np.zeros((1, 3), np.float32)
        sums.add_later("block", states, np.ones((1, 3), np.float32))
        with pytest.raises(RuntimeError, match="no such rank"):
            sums.settle(states)


def test_an_error_waits_for_no_sum_and_frees_nothing_that_one_may_still_use(gated):
    def add_and_fail() -> None:
        with Sums(gated, Idle(), Trace()) as sums:
            sums.add_later("block", np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
            raise KeyError("the caller's own")

    began = time.monotonic()
    with pytest.raises(KeyError, match="the caller's own"):
        add_and_fail()
    assert time.monotonic() - began < 5
    assert not gated.freed


def test_requests_are_freed_when_all_sums_are_made(gated):
    gated.gate.set()
    with Sums(gated, Idle(), Trace()) as sums:
        sums.add_later("block", np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))
    assert gated.done == 1
    assert gated.freed


def test_alone_the_partial_is_the_sum(gated):
    """Without a message: the gate stays closed."""
    reduce = Idle()
    reduce.size = 1
    with Sums(gated, reduce, Trace()) as sums:
        states = np.ones((2, 3), np.float32)
        sums.expect(2)
        sums.add("block", states, np.ones((2, 3), np.float32))
        sums.expect_on_root(2)
        sums.add_on_root("block", states, np.ones((2, 3), np.float32))
    assert (states == 3).all()
