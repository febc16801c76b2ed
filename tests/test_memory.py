"""Laws of the plan: a budget is never exceeded, is used as far as it goes, and one too small names the least."""

from itertools import pairwise

import pytest

from tpi_mpi import memory
from tpi_mpi.errors import UserError
from tpi_mpi.memory import plan, spread
from tpi_mpi.units import format_size

BLOCKS = {f"block {index}": size for index, size in enumerate([30, 70] * 10 + [55, 55])}


def used(result) -> int:
    """The most that the window and the pinned blocks can take together."""
    pinned = sum(BLOCKS[name] for name in result.pinned)
    streamed = sorted((size for name, size in BLOCKS.items() if name not in result.pinned), reverse=True)
    return pinned + sum(streamed[: result.depth])


@pytest.mark.parametrize("budget", [*range(310, 1300, 70), 5000])
@pytest.mark.parametrize("depth", [None, 1, 2, 5])
def test_a_budget_is_kept_and_used(budget, depth):
    fixed = 100
    try:
        result = plan(BLOCKS, budget, fixed, depth)
    except UserError:
        assert fixed + sum(sorted(BLOCKS.values())[-(depth or 3) :]) > budget
        return
    assert fixed + used(result) <= budget
    if fixed + sum(BLOCKS.values()) <= budget:
        assert result.pinned == set(BLOCKS)


def test_a_larger_budget_never_pins_fewer():
    counts = [len(plan(BLOCKS, budget, 0).pinned) for budget in range(300, 1300, 10)]
    assert counts == sorted(counts)


def test_a_budget_too_small_names_the_least_that_works():
    with pytest.raises(UserError) as refusal:
        plan(BLOCKS, 200, 100)
    assert f"the least that works here is {format_size(310)}" in str(refusal.value)
    plan(BLOCKS, 310, 100)


@pytest.mark.parametrize("count", [1, 7, 44, 160])
def test_pinned_blocks_are_spread_evenly(count):
    for chosen in range(count + 1):
        indices = spread(count, chosen)
        assert len(set(indices)) == chosen
        gaps = [b - a for a, b in pairwise(indices)]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_resident_size_grows_with_what_is_touched():
    before = memory.resident()
    ballast = bytearray(64 * 1024**2)
    ballast[::4096] = bytes(len(ballast[::4096]))
    assert memory.resident() - before > 60 * 1024**2
    assert memory.peak_rss() >= memory.resident() - 1024**2


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroups_limit_bounds_what_is_available(tmp_path, monkeypatch, version):
    limit, usage = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    )
    (tmp_path / limit).write_text(f"{300 * 1024**2}\n")
    (tmp_path / usage).write_text(f"{200 * 1024**2}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {50 * 1024**2}\nactive_file 0\n")
    monkeypatch.setattr(memory, "_cgroup_directories", lambda: [(tmp_path, limit, usage)])
    assert memory.available() == 150 * 1024**2


def test_a_cgroup_without_a_limit_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    monkeypatch.setattr(memory, "_cgroup_directories", lambda: [(tmp_path, "memory.max", "memory.current")])
    assert memory.available() > 100 * 1024**2
