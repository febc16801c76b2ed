"""Pages of mapped files: brought into memory, and freed.

Nothing here holds Python's global lock while waiting for the disk, so one thread can fetch while another computes.
"""

import ctypes
import errno
import mmap
import os
from pathlib import Path

from tpi_mpi.common.units import MIB

# Since Linux 5.14: reads the pages of a mapping as fast as direct I/O, with next to no CPU time.
_MADV_POPULATE_READ = 22
_MADV_DONTNEED = 4

_libc = ctypes.CDLL(None, use_errno=True)  # unlike mmap.madvise, a call through ctypes releases the global lock
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


GRANULARITY = mmap.ALLOCATIONGRANULARITY
"""Mappings begin at a multiple of this many bytes in a file: a page, 4 KiB on most machines, 16 or 64 KiB on some."""


def lead_of(offset: int) -> int:
    """Bytes between an offset in a file and the page boundary at or before it."""
    return offset % GRANULARITY


def covering(offset: int, length: int) -> int:
    """The size in bytes of all pages that a range of a file touches."""
    return -(-(lead_of(offset) + length) // GRANULARITY) * GRANULARITY


def populate(address: int, length: int) -> int:
    """Reads a range of mapped memory from its file; returns 0, or the system's error number.

    EINVAL means that the kernel does not support this.
    """
    lead = address % mmap.PAGESIZE
    failed = _libc.madvise(address - lead, length + lead, _MADV_POPULATE_READ)
    return ctypes.get_errno() if failed else 0


def fetch(address: int, length: int, descriptor: int, offset: int) -> None:
    """Brings a mapped range, which is at ``offset`` in its file, into memory.

    Raises OSError, with the system's error number, if the disk cannot deliver it; touching the range would then kill
    the process.
    """
    code = populate(address, length)
    if code == errno.EINVAL:
        _read_through(descriptor, offset, offset + length)
    elif code:
        raise OSError(code, reason(code))


def reason(code: int) -> str:
    """An error number of :func:`populate` in words."""
    return "the disk failed, or the file ends too early" if code == errno.EFAULT else os.strerror(code)


def _read_through(descriptor: int, position: int, end: int) -> None:
    """For kernels that cannot populate a mapping: fills the page cache, which then serves the mapping."""
    buffer = bytearray(min(end - position, MIB))
    while position < end:
        count = os.preadv(descriptor, [buffer], position)
        if count == 0:
            raise OSError(errno.EFAULT, reason(errno.EFAULT))
        position += count


def discard(address: int, length: int) -> None:
    """Drops the pages from the mapping. They may stay in the page cache."""
    _libc.madvise(address, length, _MADV_DONTNEED)


def address_of(mapping: mmap.mmap) -> int:
    """The address of a writable or private mapping, which cannot be closed as long as a view of it exists."""
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def warm(descriptor: int, offset: int, length: int) -> bool:
    """Reads a range of a file into the page cache, if the kernel supports that; returns whether it did."""
    lead = lead_of(offset)
    with mmap.mmap(descriptor, length + lead, access=mmap.ACCESS_COPY, offset=offset - lead) as mapping:
        return populate(address_of(mapping), length + lead) == 0


def readahead(path: Path) -> int:
    """Bytes around a range that the kernel may read in addition; 0 if the file's filesystem does not tell."""
    device = os.stat(path).st_dev
    try:
        kib = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text()
    except OSError:
        return 0
    return 2 * 1024 * int(kib)  # half of it before the range, all of it after, and some in between
