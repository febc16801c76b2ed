"""Pages of files: what is asked for comes into the page cache, from any offset."""

import ctypes
import mmap
import os

import pytest

from tpi_mpi.weights import pages

LENGTH = 64 * mmap.PAGESIZE


def resident(path) -> int:
    """Pages of a file that are in the page cache."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), LENGTH) as mapping:
        found = (ctypes.c_ubyte * (LENGTH // mmap.PAGESIZE))()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        assert libc.mincore(pages.address_of(mapping), LENGTH, ctypes.addressof(found)) == 0
        return sum(flag & 1 for flag in found)


@pytest.mark.parametrize("offset", [0, 4096, 5000])
def test_a_cold_file_is_warm_afterwards(tmp_path, offset):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(LENGTH))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path):
        pytest.skip("this filesystem keeps its pages in memory")
    known = pages.warm(descriptor, offset, LENGTH - offset)
    os.close(descriptor)
    if not known:
        pytest.skip("this kernel does not know how to populate a mapping")
    assert resident(path) >= (LENGTH - offset) // mmap.PAGESIZE


def test_what_is_read_around_a_range_is_known_or_nothing(tmp_path):
    around = pages.readahead(tmp_path)
    assert around >= 0
    assert around % 2048 == 0
