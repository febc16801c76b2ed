"""Laws of reading ahead: only what the first sweep uses, only what the budget lets stay, and it ends in time."""

import threading
import time
from collections.abc import Callable

import pytest

from tpi_mpi.common.errors import DiskHung
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.weights import prefetch
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab


@pytest.fixture
def slab(demo_slabs) -> Slab:
    return read_slab(slab_path(demo_slabs(2), 0))


@pytest.fixture
def asked(monkeypatch) -> set[int]:
    """The bytes of the file that the system is asked to read."""
    found = set()

    def warm(descriptor, offset, length):
        found.update(range(offset, offset + length))
        time.sleep(0.01)
        return True

    monkeypatch.setattr(prefetch, "warm", warm)
    monkeypatch.setattr(prefetch, "readahead", lambda path: 0)
    monkeypatch.setattr(prefetch, "_PIECE", 16384)
    return found


def run(slab: Slab, until: Callable[[], bool] = lambda: False, **options) -> None:
    began, count = time.perf_counter(), threading.active_count()
    with prefetch.prefetched(slab, 1, MachineOptions(**options)):
        while threading.active_count() > count and not until() and time.perf_counter() < began + 10:
            time.sleep(0.001)
    assert threading.active_count() == count


def swept(slab: Slab) -> set[int]:
    return {at for block in slab.sweep.values() for at in range(block.offset, block.offset + block.nbytes)}


def test_where_everything_fits_all_that_is_swept_is_read(slab, asked):
    run(slab, memory=10**10)
    assert asked == swept(slab)


def test_no_more_is_read_than_the_budget_lets_stay(slab, asked):
    room = len(swept(slab)) // 2
    run(slab, memory=prefetch._RESERVE + room)
    assert asked < swept(slab)
    assert room / 2 < len(asked) < room


@pytest.mark.parametrize("options", [{"memory": 1000}, {"memory": prefetch._RESERVE}, {"window": 2}])
def test_nothing_is_read_that_might_not_stay(slab, asked, options):
    run(slab, **options)
    assert not asked


def test_it_ends_with_the_block(slab, asked):
    run(slab, until=lambda: len(asked) > 0, memory=10**10)
    assert 0 < len(asked) < len(swept(slab))


def test_what_the_kernel_reads_around_a_block_counts(slab, asked, monkeypatch):
    monkeypatch.setattr(prefetch, "readahead", lambda path: 10**6)
    run(slab, memory=prefetch._RESERVE + len(swept(slab)))
    assert len(asked) < len(swept(slab)) / 2


def test_a_disk_that_hangs_is_an_error_in_time(slab, monkeypatch):
    asked, woken = threading.Event(), threading.Event()

    def hang(*where) -> bool:
        asked.set()
        woken.wait(timeout=60)
        return False

    monkeypatch.setattr(prefetch, "warm", hang)
    began = time.monotonic()
    with pytest.raises(DiskHung, match=r"no data of slab .*rank0000\.h5 has moved to or from the disk for 1 s"):
        with prefetch.prefetched(slab, 1, MachineOptions(memory=10**10, timeout=1.0)):
            asked.wait(timeout=10)
    assert time.monotonic() - began < 5
    woken.set()
