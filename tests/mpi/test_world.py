"""Laws of the ranks as one program: they tell each other the truth, and stop together."""

import os
from dataclasses import replace

import numpy as np
import pytest

from tpi_mpi.comm import world as starting
from tpi_mpi.comm.world import Stopped
from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.engine.sweep.step import Assignment, Copy, Operation, Segment, Step, Steps
from tpi_mpi.model.room import Room


def test_gather_and_broadcast(world):
    mine = {"rank": world.rank, "text": "ä" * world.rank}
    gathered = world.gather(mine)
    if world.is_root:
        assert gathered == [{"rank": rank, "text": "ä" * rank} for rank in range(world.size)]
    else:
        assert gathered is None
    value = {"of": "rank 0", "list": [1, None, 2.5]}
    assert world.broadcast(value if world.is_root else None) == value


def test_agreement_lets_everybody_through(world):
    with world.agreed():
        pass


@pytest.mark.parametrize("status", [1, 2])
def test_one_rank_that_fails_stops_all_with_its_status(world, status, capfd):
    culprit = world.size - 1
    with pytest.raises(Stopped) as stopped:
        fail_together(world, culprit, TpiError if status == 1 else UserError)
    assert stopped.value.status == status
    shown = capfd.readouterr().err
    world.barrier()
    if world.is_root and world.size > 1:
        assert shown == f"tpi_mpi: rank {culprit} on {world.host}: the disk is gone\n"
    elif not world.is_root:
        assert shown == ""


def fail_together(world, culprit, kind):
    with world.agreed():
        if world.rank == culprit:
            raise kind("the disk is gone")


def test_what_all_ranks_find_is_said_once(world, capfd):
    with pytest.raises(Stopped), world.agreed():
        raise UserError("no such directory")
    shown = capfd.readouterr().err
    assert shown == ("tpi_mpi: no such directory\n" if world.is_root else "")


def test_ranks_with_another_identity_than_rank_0_are_named(world, capfd):
    world.same("a.h5", {"digest": "abc"})
    if world.size == 1:
        return
    with pytest.raises(Stopped):
        world.same("a.h5", {"digest": "abc" if world.rank != 1 else "abd"})
    shown = capfd.readouterr().err
    if world.is_root:
        assert shown.startswith(f"tpi_mpi: rank 1 on {world.host}: slab a.h5 has a different digest from rank 0's")


def test_threads_are_shared_and_never_more_than_cores(world, cores):
    assert cores.ranks == world.size
    shared = world.gather(cores.threads())
    if world.is_root:
        assert all(threads >= 1 for threads in shared)
        assert sum(shared) <= max(len(cores._all), world.size)
    assert cores.threads(1) == 1
    with pytest.raises(UserError, match=r"--threads 999 is more than the \d+ cores"):
        cores.threads(999)


def test_steps_arrive_in_order_and_end(world, together):
    steps = Steps(world.comm, 4096, Room(sequences=3, longest=300, pages=40, rows=400))
    sent = [
        (Step([Segment(0, 0, 5, 5, 1)], [Assignment(0, 0, 7)]), 1.0),
        (Step([Segment(2, 5, 1, 6, 1), Segment(0, 0, 300, 300, 0)], [Assignment(0, 0, 1)], [Copy(7, 9)]), 2.0),
        (Step([Segment(slot, 6, 1, 7, 1) for slot in range(3)]), 3.0),
    ]
    if world.is_root:
        steps.pause()
        for step, value in sent:
            steps.send(step, np.full((step.rows, 4096), value, np.float32))
        steps.stop()
        return
    assert steps.receive() is Operation.PAUSE
    for step, value in sent:
        received, hidden = steps.receive()
        assert received == replace(step, assignments=list(step.assignments), copies=list(step.copies))
        assert np.array_equal(hidden, np.full((step.rows, 4096), value, np.float32))
    assert steps.receive() is Operation.STOP


@pytest.mark.parametrize(("given", "used"), [(None, str(1024**2)), ("4096", "4096")])
def test_open_mpi_sends_hidden_states_without_asking_unless_told_otherwise(world, monkeypatch, given, used):
    name = "OMPI_MCA_btl_tcp_eager_limit"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    starting._load_mpi()
    assert os.environ[name] == used


def test_the_first_rank_of_a_host_goes_ahead(world, cores, together, workshop):
    path = workshop / f"first-{world.size}"
    with cores.first_ahead():
        if cores.first:
            path.touch()
        assert path.exists()
    assert cores.first == world.is_root  # this host is the only one
