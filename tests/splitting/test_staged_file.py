"""What is staged arrives: any pieces, on any filesystem, whatever the kernel thinks of direct writes."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.weights.slabs.extents import PAGE
from weights_tools.common import direct_file
from weights_tools.splitting.staged_file import StagedFile

RANGES = {0: [(7, 100), (40, 33), (1, 8192)], 12 * PAGE: [(1, 1)], 20 * PAGE: [(50, 1024), (3, 5)]}


@pytest.fixture
def threads():
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield pool


def write_and_compare(path: Path, threads) -> None:
    path.write_bytes(b"")
    file = StagedFile(path, 4 * PAGE, threads)
    expected = bytearray(40 * PAGE)
    for offset, shapes in RANGES.items():
        file.seek(offset)
        position = offset
        for rows, width in shapes:
            data = np.random.default_rng(position).integers(256, size=rows * width, dtype=np.uint8)
            file.append(data)
            expected[position : position + len(data)] = data.tobytes()
            position += len(data)
    file.sync()
    file.close()
    written = path.read_bytes()
    assert written == expected[: len(written)]
    assert len(written) >= position


def test_every_piece_arrives_in_its_place(tmp_path, threads):
    write_and_compare(tmp_path / "file", threads)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no filesystem in memory")
def test_it_arrives_on_a_filesystem_in_memory(threads):
    path = Path(f"/dev/shm/tpi_mpi-test-{os.getpid()}")
    try:
        write_and_compare(path, threads)
    finally:
        path.unlink()


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_it_arrives_where_direct_writes_are_refused(tmp_path, threads, monkeypatch, call):
    direct = direct_file._DIRECT
    if not direct:
        pytest.skip("this system has no direct writes")
    original, descriptors = {"open": os.open, "pwrite": os.pwrite}, set()

    def refusing_open(path, flags, *mode):
        if flags & direct and call == "open":
            raise OSError(errno.EINVAL, "Invalid argument")
        descriptor = original["open"](path, flags, *mode)
        (descriptors.add if flags & direct else descriptors.discard)(descriptor)
        return descriptor

    def refusing_pwrite(descriptor, *arguments):
        if descriptor in descriptors:
            raise OSError(errno.EINVAL, "Invalid argument")
        return original["pwrite"](descriptor, *arguments)

    monkeypatch.setattr(os, "open", refusing_open)
    monkeypatch.setattr(os, "pwrite", refusing_pwrite)
    write_and_compare(tmp_path / "file", threads)


def test_a_full_disk_is_named(tmp_path, threads, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_bytes(b"")
    file = StagedFile(tmp_path / "file", 4 * PAGE, threads)
    monkeypatch.setattr(os, "pwrite", full)
    file.append(np.zeros(36, np.uint8))
    with pytest.raises(UserError, match=r"the disk filled up while .*file was being written"):
        file.sync()
    file.close()
