"""How an exchange is chosen: what links promise, and where the choice changes."""

import pytest

from tpi_mpi.comm.allreduce.tuned import Trial, crossing, describe, expected_seconds, slowest
from tpi_mpi.comm.links import Link

NEAR, FAR = Link(latency=0.1e-3, bandwidth=100e6), Link(latency=5e-3, bandwidth=35e6)


def best(size: int, link: Link, nbytes: int) -> str:
    names = ("star", "direct", "reduce-scatter")
    return min(names, key=lambda name: expected_seconds(name, size, link, nbytes))


@pytest.mark.parametrize("size", [3, 4, 8, 16])
@pytest.mark.parametrize("link", [NEAR, FAR])
def test_one_hop_is_best_for_what_is_small_and_parts_for_what_is_large(size, link):
    assert best(size, link, 64) == "direct"
    assert best(size, link, 16 * 2**20) == "reduce-scatter"


def test_everyone_waits_for_the_worst_link():
    assert slowest([NEAR, FAR, Link(1e-3, 20e6)]) == Link(5e-3, 20e6)


def test_between_two_sizes_the_choice_changes_where_times_are_equal():
    few = Trial(1, 100, {}, {"direct": 1.0, "reduce-scatter": 2.0})
    many = Trial(101, 10100, {}, {"direct": 12.0, "reduce-scatter": 9.0})
    assert crossing(few, many) == 26  # 1 + 0.11 (rows - 1) and 2 + 0.07 (rows - 1)
    assert crossing(few, Trial(101, 10100, {}, {"direct": 3.0, "reduce-scatter": 9.0})) == 101


def test_what_was_not_tried_takes_what_the_links_promise():
    trial = Trial(1, 100, {"star": 3.0, "direct": 2.0}, {"star": 1.0})
    assert (trial.seconds("star"), trial.seconds("direct"), trial.best) == (1.0, 2.0, "star")


def test_a_choice_is_said_in_one_line():
    trials = [{"chosen": "direct"}, {"chosen": "reduce-scatter"}]
    line = describe({"link": {"latency": 1.01e-3, "bandwidth": 35.9e6}, "up_to_rows": 3, "trials": trials})
    assert line == (
        "allreduce direct for up to 3 tokens at once, reduce-scatter for more: links take 1.01 ms and carry 36 MB/s"
    )
    assert describe({"link": None, "up_to_rows": 9, "trials": [trials[0]]}) == "allreduce direct"


def two_trials(measured: dict[int, str], factor: float) -> list[Trial]:
    """Of one row and of 256, 4096 wide, on four ranks with 3 ms and 300 Mbit/s.

    measured: by the rows, the exchange that was tried, which took so many times what the links promise.
    """
    link, trials = Link(3e-3, 300e6 / 8), []
    for rows, name in measured.items():
        nbytes = 4 * 4096 * rows
        expected = {other: expected_seconds(other, 4, link, nbytes) for other in ("star", "direct", "reduce-scatter")}
        trials.append(Trial(rows, nbytes, expected, {name: factor * expected[name]}))
    return trials


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("slow", [0, 1, None])
def test_measured_times_that_contradict_the_expected_ones_leave_the_choice_among_the_rows(factor, slow):
    names = {1: "direct", 256: "reduce-scatter"}
    few, many = two_trials(names, factor)
    if slow is not None:  # the other one is as it was expected
        as_expected = two_trials(names, 1.0)
        few, many = (few, as_expected[1]) if slow == 0 else (as_expected[0], many)
    assert 1 <= crossing(few, many) <= 256
