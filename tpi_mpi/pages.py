"""Pages of mapped files: brought into memory, and given back.

Nothing here holds Python's global lock while it waits for the disk, so a thread can fetch while another computes.
"""

import ctypes
import mmap
import os
from pathlib import Path

# From Linux 5.14 on: reads the pages of a mapping as fast as direct I/O, at next to no processor time.
_MADV_POPULATE_READ = 22
_MADV_RANDOM = 1
_MADV_DONTNEED = 4

_libc = ctypes.CDLL(None, use_errno=True)  # unlike mmap.madvise, a call through ctypes releases the global lock
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def populate(address: int, length: int) -> int:
    """Reads a range of mapped memory from its file; returns 0, or the error number of the system.

    EINVAL means that the kernel does not know how.
    """
    lead = address % mmap.PAGESIZE
    failed = _libc.madvise(address - lead, length + lead, _MADV_POPULATE_READ)
    return ctypes.get_errno() if failed else 0


def expect_random_access(address: int, length: int) -> None:
    """For what is read by rows as they are touched: the kernel should not read ahead."""
    _libc.madvise(address, length, _MADV_RANDOM)


def discard(address: int, length: int) -> None:
    """Takes the pages out of the mapping. In the page cache, they may stay."""
    _libc.madvise(address, length, _MADV_DONTNEED)


def address_of(mapping: mmap.mmap) -> int:
    """Where a writable or private mapping begins. It cannot be closed as long as a view of it exists."""
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def warm(descriptor: int, offset: int, length: int) -> bool:
    """Reads a range of a file into the page cache, where the kernel knows how; says whether it did."""
    lead = offset % mmap.ALLOCATIONGRANULARITY
    with mmap.mmap(descriptor, length + lead, access=mmap.ACCESS_COPY, offset=offset - lead) as mapping:
        return populate(address_of(mapping), length + lead) == 0


def readahead(path: Path) -> int:
    """Bytes around a range that the kernel may read besides, where a file's filesystem tells."""
    device = os.stat(path).st_dev
    try:
        kib = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text()
    except OSError:
        return 0
    return 2 * 1024 * int(kib)  # half of it before, all of it behind, and some on the way
