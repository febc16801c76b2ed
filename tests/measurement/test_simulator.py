"""Laws of the simulated sweeps: never faster than their parts, and as slow as the window and the sums make them."""

import pytest

from tpi_mpi.measurement.simulator import Lane, Sweep, simulate

BLOCKS = {"a": 40, "b": 80, "c": 40, "d": 80}


def lane(pinned=(), capacity=160, blocks=BLOCKS) -> Lane:
    return Lane(blocks, set(pinned), capacity)


def sweep(rates, seconds, sums=0.0) -> Sweep:
    """A sweep whose blocks take each rank its own of the ``seconds`` to compute."""
    return Sweep(rates, [dict.fromkeys([*BLOCKS, "head"], each) for each in seconds], sums)


def token(lanes, rates, seconds, sums=0.0) -> float:
    """What a sweep takes after others of its kind."""
    ends = simulate(lanes, [sweep(rates, seconds, sums)] * 4)
    return ends[-1] - ends[-2]


def test_with_everything_in_memory_only_computing_and_sums_are_left():
    assert token([lane(BLOCKS), lane(BLOCKS)], [1.0, 1.0], [0.25, 1.0], sums=0.5) == pytest.approx(4 * 1.5)


def test_one_rank_has_no_sums():
    assert token([lane(BLOCKS)], [1.0], [0.25], sums=0.5) == pytest.approx(1.0)


def test_a_wide_window_hides_computing_behind_reading():
    assert token([lane(capacity=240)], [10.0], [1.0]) == pytest.approx(240 / 10)


def test_a_window_of_one_block_hides_nothing():
    blocks = dict.fromkeys(BLOCKS, 80)
    assert token([lane(capacity=80, blocks=blocks)], [10.0], [1.0]) == pytest.approx(4 * (8 + 1))


@pytest.mark.parametrize("capacity", [80, 100, 160, 240])
@pytest.mark.parametrize("pinned", ["", "a", "bc", "abc"])
@pytest.mark.parametrize("rate", [5.0, 50.0, 500.0])
def test_no_sweep_is_faster_than_its_parts_or_slower_than_all_of_them(capacity, pinned, rate):
    lanes = [lane(pinned, capacity), lane("ad", capacity)]
    took = token(lanes, [rate, rate], [0.5, 0.7], sums=0.1)
    read = max(sum(nbytes for name, nbytes in BLOCKS.items() if name not in own) / rate for own in (pinned, "ad"))
    computed = 4 * (0.7 + 0.1)
    assert max(read, computed) <= took + 1e-9
    assert took <= 2 * read + computed + 1e-9


def test_a_first_sweep_reads_what_is_pinned_too():
    first, second = simulate([lane(BLOCKS)], [sweep([10.0], [0.0])] * 2)
    assert (first, second) == (24.0, 24.0)


def test_the_head_is_computed_while_the_others_wait():
    lanes = [lane({**BLOCKS, "head": 0}, blocks={**BLOCKS, "head": 100}), lane(BLOCKS)]
    assert token(lanes, [1.0, 1.0], [1.0, 0.5], sums=0.5) == pytest.approx(4 * 1.5 + 1.0)
