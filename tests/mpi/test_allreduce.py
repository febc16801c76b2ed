"""Laws of the allreduce: every algorithm gives the sum, and ours give it bit for bit the same, however they go."""

import numpy as np
import pytest

from tpi_mpi.comm.allreduce.algorithms import ALGORITHMS
from tpi_mpi.comm.allreduce.star import StarReduce
from tpi_mpi.comm.wire import wire
from tpi_mpi.common.options.machine import ALLREDUCES, WIRES

WIDTH = 48
ROWS = [1, 1, 5, 256, 1, 3, 2, 7, 8, 9, 10, 11, 1, 12, 5]
OURS = sorted({*ALGORITHMS} - {"mpi"})


def partial(rank: int, rows: int, seed: int = 0) -> np.ndarray:
    """Values of very different size, whose sum depends on the order in which they are added."""
    values = np.random.default_rng([seed, rank]).standard_normal((rows, WIDTH), np.float32)
    return values * np.float32(10 ** (3 * (rank % 3)))


def sent(values: np.ndarray, name: str) -> np.ndarray:
    """What arrives of some values."""
    way = wire(name, WIDTH)
    message = np.empty(way.nbytes(values.size), np.uint8)
    way.write(values, message)
    return way.read(message, values.size).reshape(values.shape).copy()


def expected_sum(size: int, rows: int, seed: int, name: str = "float32") -> np.ndarray:
    total = sent(partial(0, rows, seed), name)
    for rank in range(1, size):
        total += sent(partial(rank, rows, seed), name)
    return sent(total, name)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def make(name: str, world, wire_name: str = "float32"):
    return ALGORITHMS[name](world, wire(wire_name, WIDTH), WIDTH, max(ROWS))


@pytest.fixture(params=ALGORITHMS)
def allreduce(request, world):
    made = make(request.param, world)
    yield made
    made.free()


def test_every_algorithm_gives_the_sum(world, allreduce):
    for seed, rows in enumerate(ROWS):
        total = allreduce.sum(partial(world.rank, rows, seed))
        expected = sum(partial(rank, rows, seed).astype(float) for rank in range(world.size))
        np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-2)


def test_they_are_the_ones_that_can_be_asked_for():
    assert tuple(ALGORITHMS) == ALLREDUCES


@pytest.mark.parametrize("wire_name", WIRES)
@pytest.mark.parametrize("name", OURS)
def test_ours_add_in_rank_order_what_the_wire_carries(world, name, wire_name):
    allreduce = make(name, world, wire_name)
    for seed, rows in enumerate(ROWS):
        if seed % 2:  # told beforehand, or not
            allreduce.expect(rows)
        total = allreduce.sum(partial(world.rank, rows, seed))
        assert same_bits(total, expected_sum(world.size, rows, seed, wire_name))
    allreduce.free()


@pytest.mark.parametrize("wire_name", WIRES)
def test_a_reduce_gives_the_sum_to_rank_0_alone(world, wire_name):
    reduce = StarReduce(world, wire(wire_name, WIDTH), WIDTH, max(ROWS))
    for seed, rows in enumerate(ROWS):
        total = reduce.sum(partial(world.rank, rows, seed))
        assert (total is None) != world.is_root
        if world.is_root:
            expected = sum(sent(partial(rank, rows, seed), wire_name).astype(float) for rank in range(world.size))
            np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-2)
    reduce.free()


def test_a_partial_may_be_a_view_and_stays_as_it_was(world, allreduce):
    wide = np.tile(partial(world.rank, 6), (1, 2))
    view = wide[::2, :WIDTH]
    assert not view.flags.c_contiguous
    before = wide.copy()
    expected = sum(partial(rank, 6)[::2].astype(float) for rank in range(world.size))
    np.testing.assert_allclose(allreduce.sum(view), expected, rtol=1e-5, atol=1e-2)
    assert np.array_equal(wide, before)


@pytest.mark.parametrize("name", OURS)
def test_buffers_and_plans_are_built_once_for_a_shape(world, name):
    allreduce = make(name, world)
    first = allreduce.sum(partial(world.rank, 2)).ctypes.data
    allreduce.sum(partial(world.rank, 3))
    assert allreduce.sum(partial(world.rank, 2)).ctypes.data == first
    allreduce.free()


def test_auto_says_what_it_took_and_why(world):
    auto = make("auto", world)
    report = auto.choice()
    auto.free()
    assert (report["link"] is None) == (world.size == 1)
    few, many = report["trials"]
    assert (few["rows"], many["rows"]) == (1, max(ROWS))
    assert 1 <= report["up_to_rows"] <= max(ROWS)
    for trial in report["trials"]:
        assert trial["measured"][trial["chosen"]] == min(trial["measured"].values())
        assert trial["nbytes"] == 4 * WIDTH * trial["rows"]
    assert world.broadcast(report) == report  # all took the same
