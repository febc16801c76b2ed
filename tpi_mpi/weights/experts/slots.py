"""Memory in places of one size, each of which holds one expert after another."""

import mmap
from contextlib import suppress

from tpi_mpi.weights.pages import address_of

HUGE_PAGE = 2 * 1024**2


class Slots:
    """``count`` places of ``size`` bytes, a multiple of the page size. They take memory from their first use on.

    Experts are read into them directly, past the page cache, so giving one up costs nothing; and in huge pages, in
    which the kernels find them faster.
    """

    def __init__(self, count: int, size: int):
        self.size = size
        self._map = mmap.mmap(-1, max(1, count * size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE") and size >= HUGE_PAGE // 8:
            with suppress(OSError):  # some kernels have none
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._map)
        self._address = address_of(self._map)

    def address(self, slot: int) -> int:
        return self._address + slot * self.size

    def view(self, slot: int, nbytes: int) -> memoryview:
        """The first bytes of a slot."""
        return self._view[slot * self.size : slot * self.size + nbytes]
