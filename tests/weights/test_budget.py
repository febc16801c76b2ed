"""Laws of the plan: a budget is never exceeded, is used as far as it goes, and one too small names the least."""

from itertools import pairwise

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.weights.budget import plan, plan_window, spread, window_size
from tpi_mpi.weights.experts.sizes import ExpertSizes

BLOCKS = {f"block {index}": size for index, size in enumerate([30, 70] * 10 + [55, 55])}
SIZES = list(BLOCKS.values())


def pinned_bytes(result) -> int:
    return sum(BLOCKS[name] for name in result.pinned)


@pytest.mark.parametrize("budget", [*range(100, 1300, 35), 5000])
@pytest.mark.parametrize("depth", [None, 1, 2, 5])
def test_a_budget_is_kept_and_used(budget, depth):
    fixed = 100
    try:
        result = plan(BLOCKS, budget, fixed, depth)
    except UserError:
        assert fixed + (window_size(SIZES, set(), depth) if depth else max(SIZES)) > budget
        return
    used = fixed + pinned_bytes(result) + result.capacity
    assert used <= budget
    assert result.pinned == set(BLOCKS) or budget - used < 2 * max(SIZES)
    if fixed + sum(SIZES) <= budget:
        assert result.pinned == set(BLOCKS)
        assert result.capacity == 0


@pytest.mark.parametrize("depth", [None, 1, 2, 5])
def test_every_block_that_streams_fits_the_window(depth):
    for budget in range(400, 1200, 30):
        result = plan(BLOCKS, budget, 0, depth)
        assert result.capacity >= max((size for name, size in BLOCKS.items() if name not in result.pinned), default=0)


def test_a_window_of_blocks_has_room_for_any_of_them_in_a_row():
    assert window_size([1, 5, 2, 4], set(), 2) == 7
    assert window_size([4, 1, 1, 5], set(), 2) == 9  # the last and, in the next sweep, the first
    assert window_size([4, 9, 1, 5], {1}, 2) == 9
    assert window_size([4, 1], set(), 5) == 5
    assert window_size([4, 1], {0, 1}, 2) == 0


def test_a_larger_budget_pins_no_less_than_a_block_fewer():
    pinned = [pinned_bytes(plan(BLOCKS, budget, 0)) for budget in range(80, 1300, 10)]
    assert all(more >= less - max(SIZES) for less, more in pairwise(pinned))
    assert pinned[-1] > pinned[0] + 800


def test_a_budget_too_small_names_the_least_that_works():
    with pytest.raises(UserError) as refusal:
        plan(BLOCKS, 169, 100)
    assert str(refusal.value).endswith("give at least 9MiB")  # 170 bytes, and what differs between runs
    assert plan(BLOCKS, 170, 100).capacity == 70


@pytest.mark.parametrize("count", [1, 7, 44, 160])
def test_pinned_blocks_are_spread_evenly(count):
    for percent in range(1, 100, 7):
        sizes = [30 + 40 * (index % 2) for index in range(count)]
        chosen, position, behind = spread(sizes, percent / 100), 0, 0
        for index, size in enumerate(sizes):
            position += size
            behind += size * (index in chosen)
            assert abs(position * percent / 100 - behind) <= 70  # at any point of the sweep, within a block
    assert spread(sizes, 1.0) == set(range(count))
    assert spread(sizes, 0.0) == set()


EXPERTS = ExpertSizes(layers=10, count=8, top_k=2, size=7)


@pytest.mark.parametrize("budget", range(150, 2500, 17))
@pytest.mark.parametrize("depth", [None, 1, 3])
def test_blocks_come_before_experts_and_both_keep_the_budget(budget, depth):
    fixed = 100
    try:
        result = plan(BLOCKS, budget, fixed, depth, EXPERTS)
    except UserError:
        least = window_size(SIZES, set(), depth) if depth else max(SIZES)
        assert fixed + least + EXPERTS.least * EXPERTS.size > budget
        return
    assert fixed + pinned_bytes(result) + result.capacity + result.slots * EXPERTS.size <= budget
    assert EXPERTS.least <= result.slots <= EXPERTS.most
    if result.slots > EXPERTS.good:
        assert result.pinned == set(BLOCKS)
    if fixed + sum(SIZES) + EXPERTS.most * EXPERTS.size <= budget:
        assert result.slots == EXPERTS.most


def test_the_least_budget_beside_experts_works():
    with pytest.raises(UserError, match="give at least") as refusal:
        plan({name: size << 20 for name, size in BLOCKS.items()}, 1 << 20, 0, None, EXPERTS)
    least = int(str(refusal.value).split()[-1].removesuffix("MiB"))
    plan({name: size << 20 for name, size in BLOCKS.items()}, least << 20, 0, None, EXPERTS)


def test_a_window_alone_has_slots_for_what_a_row_needs():
    assert plan_window(BLOCKS, 2, EXPERTS).slots == EXPERTS.top_k
