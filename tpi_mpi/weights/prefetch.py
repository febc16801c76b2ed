"""Reading ahead: the disk already reads blocks while the libraries are imported."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.memory import default_budget
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.common.units import MIB
from tpi_mpi.weights.budget import plan
from tpi_mpi.weights.experts.sizes import ExpertSizes
from tpi_mpi.weights.pages import readahead, warm
from tpi_mpi.weights.patience import Patience
from tpi_mpi.weights.slabs.slab import Slab

# The part of a budget that libraries and buffers will hardly exceed; their real size is not known yet.
_RESERVE = 192 * MIB
# Bytes requested at once.
_PIECE = 32 * MIB


@contextmanager
def prefetched(slab: Slab, ranks_here: int, options: MachineOptions) -> Iterator[None]:
    """Inside the with-block, the system reads the blocks that the budget will pin into the page cache.

    The window finds their pages there and maps them. These blocks are spread over the sweep, so that the rest can be
    read while they are computed. Nothing is read that the first sweep does not use, and nothing at all if the window
    is bounded by a number of blocks alone.

    ranks_here: number of ranks that share this machine's memory.
    Raises DiskHung, on leaving, if the disk delivers nothing for too long.
    """
    budget = options.memory or (0 if options.window else default_budget(ranks_here))
    reader = _Reader(slab, budget, Patience(options.deadline.silence))
    reader.start()
    try:
        yield
    finally:
        reader.stop()
    reader.wait()


class _Reader(threading.Thread):
    """Reads until stopped. A daemon, because a disk that hangs must not keep the program alive."""

    def __init__(self, slab: Slab, budget: int, patience: Patience):
        super().__init__(name="prefetch", daemon=True)
        self._slab, self._budget, self._patience = slab, budget, patience
        self._over = threading.Event()

    def run(self) -> None:
        ranges = _staying(self._slab, self._budget)
        pieces = [(at, min(_PIECE, stop - at)) for start, stop in ranges for at in range(start, stop, _PIECE)]
        descriptor = os.open(self._slab.path, os.O_RDONLY)
        for offset, length in pieces:
            self._patience.moved()
            if self._over.is_set() or not warm(descriptor, offset, length):
                break
        os.close(descriptor)

    def stop(self) -> None:
        """Makes it stop after the piece that it is reading."""
        self._over.set()

    def wait(self) -> None:
        """Returns when it has stopped. Raises DiskHung if it makes no progress for too long."""
        while self.is_alive():
            self.join(self._patience.interval)
            if self.is_alive():
                self._patience.check(f"slab {self._slab.path}")


def _staying(slab: Slab, budget: int) -> list[tuple[int, int]]:
    """Start and stop in the file of blocks likely to be pinned, allowing for what the kernel reads around them."""
    around = readahead(slab.path)
    try:
        sizes = {name: size + around for name, size in slab.resident.items()}
        pinned = plan(sizes, budget, _RESERVE, experts=ExpertSizes.of(slab)).pinned
    except UserError:  # if the budget is indeed too small, the engine reports it once all sizes are known
        return []
    return [(extent.offset, extent.stop) for name, extent in slab.sweep.items() if name in pinned]
