"""How a disk is measured: steadily, and never for ever."""

import os
import threading
import time
from types import SimpleNamespace

import pytest

from tpi_mpi.common.errors import DiskHung
from tpi_mpi.measurement import disk_probe
from tpi_mpi.measurement.disk_probe import Readable, read_rate, steady_rate

ALONE = SimpleNamespace(barrier=lambda: None)


def test_a_burst_does_not_count():
    steady = [(0.1 * tick, 10) for tick in range(1, 11)]
    assert steady_rate(0.0, steady) == pytest.approx(100)
    assert steady_rate(0.0, [(0.01, 90), *steady]) == pytest.approx(100)
    assert steady_rate(0.0, [(2.0, 50)]) == 25


@pytest.fixture
def readable(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    descriptor = os.open(path, os.O_RDONLY)
    yield Readable(path, descriptor, [(0, 1 << 20)])
    os.close(descriptor)


@pytest.mark.parametrize("seconds", [0.05, 0.0])
def test_what_is_read_has_a_rate_however_short_the_time(readable, seconds, monkeypatch):
    monkeypatch.setattr(disk_probe, "_SECONDS", seconds)
    assert read_rate(ALONE, readable, patience=10.0) > 0


def test_without_anything_to_read_there_is_no_rate():
    assert read_rate(ALONE, None, patience=10.0) is None


def test_a_disk_that_hangs_is_an_error_in_time(readable, monkeypatch):
    woken = threading.Event()
    monkeypatch.setattr(os, "preadv", lambda *where: woken.wait(timeout=60) and 1)
    began = time.monotonic()
    with pytest.raises(DiskHung, match=r"no data of .*file has moved to or from the disk for 1 s"):
        read_rate(ALONE, readable, patience=1.0)
    assert time.monotonic() - began < 5
    woken.set()
