"""Laws of the schedule: first come first served, never more than there is room for, and nobody starves."""

import random
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.demand import Demand, best
from tpi_mpi.engine.planning import agree_on_room
from tpi_mpi.engine.request import Request
from tpi_mpi.engine.schedule.pace import Pace
from tpi_mpi.engine.schedule.scheduler import Scheduler
from tpi_mpi.engine.schedule.sequence import Sequence
from tpi_mpi.kernels.kv_cache import PAGE, pages_for
from tpi_mpi.model.room import Room
from tpi_mpi.weights.budget import Plan

ROPE = SimpleNamespace(kind=lambda length: 0)


def sequence(length: int, new: int = 5, first: int = 0) -> Sequence:
    return Sequence(Request(tuple(range(first, first + length)), SamplingOptions(max_new_tokens=new)))


def scheduler(sequences=3, pages=100, rows=64, longest=1000, share=True) -> Scheduler:
    return Scheduler(Room(sequences, longest, pages, rows), ROPE, share)


def sweep(own: Scheduler, prompt_rows: int = 64) -> list[tuple[Sequence, int, int]]:
    """Whose positions are computed, from where on, and how many; each sequence that is complete gets a token."""
    step, owners = own.next(prompt_rows)
    own.swept()
    for owner in owners:
        if owner.pending == 0:
            owner.ids.append(500)
            if owner.new_tokens == owner.request.sampling.max_new_tokens:
                own.remove(owner)
    return [(owner, segment.start, segment.count) for segment, owner in zip(step.segments, owners, strict=True)]


def test_tokens_come_first_and_prompts_ride_along_in_pieces():
    own, one, other = scheduler(rows=20), sequence(4), sequence(50, first=100)
    own.add(one)
    assert sweep(own) == [(one, 0, 4)]
    own.add(other)
    assert sweep(own) == [(one, 4, 1), (other, 0, 19)]
    assert sweep(own, prompt_rows=7) == [(one, 5, 1), (other, 19, 7)]
    assert sweep(own) == [(one, 6, 1), (other, 26, 19)]
    assert sweep(own) == [(one, 7, 1), (other, 45, 5)]
    assert sweep(own) == [(other, 50, 1)]


def test_who_came_first_is_served_first_and_slots_are_bounded():
    own, some = scheduler(sequences=2), [sequence(3, new=2, first=10 * index) for index in range(4)]
    for each in some:
        own.add(each)
    assert [owner for owner, *_ in sweep(own)] == some[:2]
    assert [owner for owner, *_ in sweep(own)] == some[:2]
    assert [owner for owner, *_ in sweep(own)] == some[2:]


def test_nobody_is_admitted_who_might_find_no_page_later():
    own = scheduler(pages=4)
    large, small = sequence(PAGE, new=2 * PAGE + 1), sequence(PAGE + 1, new=1, first=200)
    own.add(large)
    own.add(small)
    for _ in range(2 * PAGE):
        assert [owner for owner, *_ in sweep(own)] == [large]
    sweep(own)
    assert [owner for owner, *_ in sweep(own)] == [small]
    assert not own.busy


def test_what_is_being_computed_in_the_same_sweep_counts_as_known():
    own, one, other = scheduler(rows=256), sequence(2 * PAGE + 3), sequence(2 * PAGE + 9)
    own.add(one)
    own.add(other)
    assert sweep(own, 256) == [(one, 0, 2 * PAGE + 3), (other, 2 * PAGE, 9)]
    assert other.cached_tokens == 2 * PAGE
    assert one.pages[:2] == other.pages[:2]


def test_of_a_page_that_differs_later_the_first_part_is_copied():
    own, one = scheduler(), sequence(2 * PAGE)
    own.add(one)
    sweep(own)
    other = Sequence(Request((*range(PAGE + 5), 900, 901), SamplingOptions(max_new_tokens=1)))
    own.add(other)
    step, owners = own.next(64)
    assert [(copy.source, copy.target) for copy in step.copies] == [(one.pages[1], other.pages[1])]
    assert step.segments[owners.index(other)].start == PAGE + 5


def test_a_prompt_that_is_scored_is_computed_whole():
    own, one = scheduler(), sequence(2 * PAGE)
    own.add(one)
    sweep(own)
    scored = Sequence(Request(tuple(range(2 * PAGE)), SamplingOptions(0, prompt_logprobs=True)))
    own.add(scored)
    step, owners = own.next(100)
    segment = step.segments[owners.index(scored)]
    assert (segment.start, segment.count, segment.wanted) == (0, 63, 63)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_all_that_is_asked_for_is_computed_once_and_in_order(seed, share):
    draw, room = random.Random(seed), Room(sequences=5, longest=300, pages=14, rows=40)
    own, waiting, computed = Scheduler(room, ROPE, share), [], {}
    for index in range(60):
        length, new = draw.randint(1, 200), draw.randint(1, 90)
        waiting.append(sequence(length, new, first=1000 * draw.randrange(3)))
        assert pages_for(waiting[-1].request.length) <= room.pages, index
    for each in waiting:
        own.add(each)
    sweeps = 0
    while own.busy:
        step_rows = 0
        for owner, start, count in sweep(own, draw.choice([1, 10, 40])):
            assert start == computed.get(owner, owner.cached_tokens)
            computed[owner] = start + count
            step_rows += count
        assert 0 < step_rows <= room.rows
        sweeps += 1
        if draw.random() < 0.005 and own.running:
            own.remove(draw.choice(own.running))
    ended = [each for each in waiting if each.new_tokens == each.request.sampling.max_new_tokens]
    assert len(ended) > 40
    assert all(computed[each] == each.request.length for each in ended)


@pytest.mark.parametrize("seed", range(6))
def test_sequences_that_are_computed_again_find_pages(seed):
    """Their keys change when they reach a length, as with longrope, whoever had pages in common with them before."""
    draw, limit = random.Random(seed), 2 * PAGE + 7
    rope = SimpleNamespace(kind=lambda length: int(length > limit))
    own, again = Scheduler(Room(sequences=4, longest=200, pages=9, rows=50), rope, share=True), 0
    waiting = [sequence(draw.randint(PAGE, 2 * PAGE + 20), draw.randint(1, 40)) for _ in range(40)]
    for each in waiting:
        own.add(each)
    while own.busy:
        before = {each: len(each.ids) for each in own.running}
        sweep(own, draw.choice([5, 50]))
        for each in list(own.running):
            if before.get(each) == limit and len(each.ids) == limit + 1:
                again += 1
                own.restart(each)
                if draw.random() < 0.2:
                    own.remove(each)
    assert again > 3


def test_what_there_is_never_room_for_is_refused():
    own = scheduler(pages=3)
    own.add(sequence(3 * PAGE, new=1))
    with pytest.raises(UserError, match="97 positions, but this run has memory for 96 of a sequence"):
        own.add(sequence(3 * PAGE, new=2))


def test_prompts_fill_the_time_that_a_sweep_takes_anyhow():
    pace = Pace(500)
    assert pace.prompt_rows(decoding=True) == 500  # nothing is known yet
    pace.observe(100, 100, seconds=2.1, computing=1.0)
    assert pace.prompt_rows(decoding=True) == 210
    for _ in range(30):
        pace.observe(104, 100, seconds=2.1, computing=1.04)
        assert 200 <= pace.prompt_rows(decoding=True) <= 210
    for _ in range(30):
        pace.observe(4, 0, seconds=2.1, computing=0.1)
    assert pace.prompt_rows(decoding=True) == 200
    assert pace.prompt_rows(decoding=False) == 500
    for _ in range(30):
        pace.observe(4, 0, seconds=0.5, computing=0.49)  # all in memory now
    assert pace.prompt_rows(decoding=True) == pytest.approx(49, abs=1)
    for _ in range(30):
        pace.observe(504, 500, seconds=9.0, computing=9.0)  # others wait for a prompt
    assert pace.prompt_rows(decoding=True) == 32


def test_as_few_sequences_as_nearly_reach_the_best_rate():
    assert best({1: 2.0, 2: 2.0, 4: 2.1, 8: 3.9}) == 4
    assert best({1: 1.0, 2: 1.05, 4: 2.0, 8: 4.0}) == 2
    assert best({1: 1.0}) == 1


def test_the_room_is_for_average_sequences_and_for_the_longest():
    demand = Demand(longest=200, requests=50, positions=50 * 48)
    assert demand.room(8, 64).pages == 8 * 2
    assert demand.room(1, 64).pages == pages_for(200)
    assert [room.pages for room in demand.rooms(8, 64)] == [8 * 2]
    assert demand.choices(None) == [1, 2, 4, 8, 16, 32, 50]
    assert demand.choices(7) == [7]
    assert Demand.of_one(100).choices(None) == [1]


def test_where_nobody_knows_how_long_sequences_are_there_may_be_more_room():
    rooms = Demand.of_many(320, 4096, 8).rooms(8, 64)
    assert [room.pages for room in rooms] == [24, 38, 52, 66, 80]
    slab = SimpleNamespace(resident={"a": 1 << 30, "b": 1 << 30}, experts={})
    plans = {room.pages: Plan(frozenset("ab" if room.pages < 60 else "a"), 0) for room in rooms}
    alone = SimpleNamespace(gather=lambda value: [value], broadcast=lambda value: value, agreed=nullcontext)
    chosen, plan = agree_on_room(alone, rooms, slab, lambda room: plans[room.pages])
    assert (chosen.pages, plan.pinned) == (52, {"a", "b"})
