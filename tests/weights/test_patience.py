"""A disk that gives nothing is named in time; one that nobody could watch is not."""

import threading
import time

import pytest

from tpi_mpi.common.errors import DiskHung
from tpi_mpi.common.threads import threads
from tpi_mpi.weights import patience
from tpi_mpi.weights.disk_threads import DiskThreads
from tpi_mpi.weights.patience import Patience


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patience, "time", made)
    return made


def wait(watched: Patience, clock: Clock, seconds: float) -> None:
    """Checks as often as it should be."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += watched.interval
        watched.check("slab a.h5")


def test_a_disk_without_progress_is_named_once_its_time_is_up(clock):
    watched = Patience(8.0)
    wait(watched, clock, 7.0)
    with pytest.raises(DiskHung, match=r"no data of slab a\.h5 has moved to or from the disk for 8 s"):
        wait(watched, clock, 2.0)


def test_progress_gives_it_the_whole_time_again(clock):
    watched = Patience(8.0)
    for _ in range(5):
        wait(watched, clock, 7.0)
        watched.moved()


def test_a_process_that_was_stopped_does_not_blame_its_disk(clock):
    watched = Patience(8.0)
    wait(watched, clock, 4.0)
    clock.now += 3600
    wait(watched, clock, 7.0)
    with pytest.raises(DiskHung):
        wait(watched, clock, 3.0)


def test_work_gives_its_result_and_raises_its_errors():
    def fail() -> None:
        raise KeyError("its own")

    with threads(1, "disk") as pool:
        disk = DiskThreads(pool, "the disk", 10.0)
        assert disk.run(lambda number: 2 * number, 21) == 42
        with pytest.raises(KeyError, match="its own"):
            disk.run(fail)


def test_work_that_never_ends_is_an_error_in_time():
    woken, began = threading.Event(), time.monotonic()
    with pytest.raises(DiskHung, match="no data of the disk has moved"), threads(1, "disk") as pool:
        DiskThreads(pool, "the disk", 1.0).run(woken.wait, 60)
    assert time.monotonic() - began < 5
    woken.set()
