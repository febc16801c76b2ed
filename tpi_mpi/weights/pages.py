"""Pages of mapped files: brought into memory, and given back.

Nothing here holds Python's global lock while it waits for the disk, so a thread can fetch while another computes.
"""

import ctypes
import errno
import mmap
import os
from pathlib import Path

from tpi_mpi.common.units import MIB

# From Linux 5.14 on: reads the pages of a mapping as fast as direct I/O, for next to no CPU time.
_MADV_POPULATE_READ = 22
_MADV_DONTNEED = 4

_libc = ctypes.CDLL(None, use_errno=True)  # unlike mmap.madvise, a call through ctypes releases the global lock
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


GRANULARITY = mmap.ALLOCATIONGRANULARITY
"""Mappings begin at multiples of so many bytes of a file: of a page, 4 KiB on most machines, 16 or 64 on some."""


def lead_of(offset: int) -> int:
    """Bytes between the beginning of a page and an offset of the file inside it."""
    return offset % GRANULARITY


def covering(offset: int, length: int) -> int:
    """Bytes of all pages that a range of a file touches."""
    return -(-(lead_of(offset) + length) // GRANULARITY) * GRANULARITY


def populate(address: int, length: int) -> int:
    """Reads a range of mapped memory from its file; returns 0, or the error number of the system.

    EINVAL means that the kernel does not know how.
    """
    lead = address % mmap.PAGESIZE
    failed = _libc.madvise(address - lead, length + lead, _MADV_POPULATE_READ)
    return ctypes.get_errno() if failed else 0


def fetch(address: int, length: int, descriptor: int, offset: int) -> None:
    """Brings a range of mapped memory, which is at ``offset`` of its file, into memory.

    Raises OSError, with the system's error number, where the disk cannot deliver it: whoever touched it would die.
    """
    code = populate(address, length)
    if code == errno.EINVAL:
        _read_through(descriptor, offset, offset + length)
    elif code:
        raise OSError(code, reason(code))


def reason(code: int) -> str:
    """What the system says of pages that cannot be read, in words."""
    return "the disk failed, or the file ends too early" if code == errno.EFAULT else os.strerror(code)


def _read_through(descriptor: int, position: int, end: int) -> None:
    """Where the kernel knows no populating: fills the page cache, from which the mapping is then served."""
    buffer = bytearray(min(end - position, MIB))
    while position < end:
        count = os.preadv(descriptor, [buffer], position)
        if count == 0:
            raise OSError(errno.EFAULT, reason(errno.EFAULT))
        position += count


def discard(address: int, length: int) -> None:
    """Takes the pages out of the mapping. In the page cache, they may stay."""
    _libc.madvise(address, length, _MADV_DONTNEED)


def address_of(mapping: mmap.mmap) -> int:
    """Where a writable or private mapping begins. It cannot be closed as long as a view of it exists."""
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def warm(descriptor: int, offset: int, length: int) -> bool:
    """Reads a range of a file into the page cache, where the kernel knows how; says whether it did."""
    lead = lead_of(offset)
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
