"""Laws of the allreduce: every algorithm gives the sum, and ours give it bit for bit the same, however they go."""

import pytest
import torch

from tpi_mpi.allreduce import ALGORITHMS
from tpi_mpi.options import ALLREDUCES

WIDTH = 48
ROWS = [1, 1, 5, 256, 1, 3, 2, 7, 8, 9, 10, 11, 1, 12, 5]


def partial(rank: int, rows: int, seed: int = 0) -> torch.Tensor:
    """Values of very different size, whose sum depends on the order in which they are added."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randn(rows, WIDTH, generator=generator) * 10.0 ** (3 * (rank % 3))


@pytest.fixture(params=ALGORITHMS)
def allreduce(request, world):
    made = ALGORITHMS[request.param](world.comm, WIDTH, max(ROWS))
    yield made
    made.free()


def test_every_algorithm_gives_the_sum(world, allreduce):
    for seed, rows in enumerate(ROWS):
        total = allreduce.sum(partial(world.rank, rows, seed))
        expected = sum(partial(rank, rows, seed).double() for rank in range(world.size))
        torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-2)


def test_they_are_the_ones_that_can_be_asked_for():
    assert tuple(ALGORITHMS) == ALLREDUCES


@pytest.mark.parametrize("name", sorted({*ALGORITHMS} - {"mpi"}))
def test_ours_add_in_rank_order(world, name):
    allreduce = ALGORITHMS[name](world.comm, WIDTH, max(ROWS))
    for seed, rows in enumerate(ROWS):
        expected = partial(0, rows, seed)
        for rank in range(1, world.size):
            expected = expected + partial(rank, rows, seed)
        total = allreduce.sum(partial(world.rank, rows, seed))
        assert torch.equal(total.view(torch.int32), expected.view(torch.int32))
    allreduce.free()


def test_a_partial_may_be_a_view_and_stays_as_it_was(world, allreduce):
    wide = partial(world.rank, 6).repeat(1, 2)
    view = wide[::2, :WIDTH]
    assert not view.is_contiguous()
    before = wide.clone()
    expected = sum(partial(rank, 6)[::2].double() for rank in range(world.size))
    torch.testing.assert_close(allreduce.sum(view).double(), expected, rtol=1e-5, atol=1e-2)
    assert torch.equal(wide, before)


@pytest.mark.parametrize("name", sorted({*ALGORITHMS} - {"mpi"}))
def test_buffers_and_requests_are_built_once_for_a_shape(world, name):
    allreduce = ALGORITHMS[name](world.comm, WIDTH, max(ROWS))
    first = allreduce.sum(partial(world.rank, 2)).data_ptr()
    allreduce.sum(partial(world.rank, 3))
    assert allreduce.sum(partial(world.rank, 2)).data_ptr() == first
    allreduce.free()
