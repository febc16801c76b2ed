"""A heartbeat that fails does not fail silently."""

import errno
import threading

import pytest

from tpi_mpi.comm import heartbeat
from tpi_mpi.comm.heartbeat import Heartbeat
from tpi_mpi.common.deadline import Deadline


class Idle:
    """A request that never completes."""

    def Test(self) -> bool:  # noqa: N802 (MPI's name)
        return False

    Cancel = Wait = Free = Test


class Comm:
    """A communicator of two ranks whose other rank never says anything. aborted: set once the job is ended."""

    def __init__(self):
        self.aborted = threading.Event()

    def Get_rank(self) -> int:  # noqa: N802
        return 1

    def Irecv(self, *message) -> Idle:  # noqa: N802
        return Idle()

    Isend = Irecv

    def Abort(self, status: int) -> None:  # noqa: N802
        self.aborted.set()


@pytest.fixture
def ended(monkeypatch) -> list[float]:
    """When, in seconds from then on, what MPI cannot end would have been killed."""
    found = []
    monkeypatch.setattr(heartbeat, "kill_after", found.append)
    return found


def broken() -> str:
    raise KeyError("nothing is known")


def test_an_exception_in_the_heartbeat_ends_the_job_and_is_shown(ended, capfd):
    comm, deadline = Comm(), Deadline(1.0)
    with Heartbeat(comm, ["a", "b"], deadline, broken):
        assert comm.aborted.wait(timeout=10)
    assert ended == [deadline.grace]
    assert "tpi_mpi: rank 1: the heartbeat failed (KeyError: 'nothing is known')" in capfd.readouterr().err


def test_a_peer_that_stays_silent_ends_the_job(ended, capfd):
    comm = Comm()
    with Heartbeat(comm, ["first", "second"], Deadline(0.4), lambda: "computing"):
        assert comm.aborted.wait(timeout=10)
    assert "rank 0 on first has given no sign of life for 0 s" in capfd.readouterr().err


def test_a_machine_without_memory_for_another_process_still_ends_the_job(monkeypatch, capfd):
    def no_memory(seconds: float) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(heartbeat, "kill_after", no_memory)
    comm = Comm()
    with Heartbeat(comm, ["a", "b"], Deadline(0.4), lambda: "computing"):
        assert comm.aborted.wait(timeout=10)
