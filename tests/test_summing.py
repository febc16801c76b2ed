"""Sums go on behind what the caller does, and are there when they are asked for."""

import threading

import pytest
import torch

from tpi_mpi.summing import Summing
from tpi_mpi.timeline import Timeline


class Gated:
    """An allreduce that waits to be let through."""

    def __init__(self):
        self.gate, self.done = threading.Event(), 0

    def expect(self, rows: int) -> None:
        pass

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        assert self.gate.wait(timeout=20)
        self.done += 1
        return 2 * partial


@pytest.fixture
def gated():
    made = Gated()
    yield made
    made.gate.set()


def test_a_sum_that_is_added_later_keeps_no_one_waiting(gated):
    with Summing(gated, Timeline()) as summing:
        first, second = torch.zeros(2, 3), torch.zeros(1, 3)
        summing.add_later("block", first, torch.ones(2, 3))
        summing.add_later("block", second, torch.ones(1, 3))
        assert gated.done == 0
        assert (first == 0).all()
        gated.gate.set()
        summing.settle(second)  # and with it what was begun before
        assert gated.done == 2
        assert (first == 2).all()
        assert (second == 2).all()
        summing.settle(first)


def test_what_stops_a_sum_is_raised_where_it_is_asked_for(gated):
    def fail(partial):
        raise RuntimeError("no such rank")

    gated.sum = fail
    with Summing(gated, Timeline()) as summing:
        states = torch.zeros(1, 3)
        summing.add_later("block", states, torch.ones(1, 3))
        with pytest.raises(RuntimeError, match="no such rank"):
            summing.settle(states)
