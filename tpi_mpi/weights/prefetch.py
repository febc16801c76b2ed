"""Reading ahead: the disk already reads the first blocks while the libraries are imported."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.memory import default_budget
from tpi_mpi.common.options import MachineOptions
from tpi_mpi.common.units import MIB
from tpi_mpi.weights.budget import plan
from tpi_mpi.weights.pages import readahead, warm
from tpi_mpi.weights.patience import Patience
from tpi_mpi.weights.slab import Slab

# Of a budget, what libraries and buffers will hardly exceed: they cannot be measured yet.
_RESERVE = 384 * MIB
# Asked for at once.
_PIECE = 32 * MIB


@contextmanager
def prefetched(slab: Slab, ranks_here: int, options: MachineOptions) -> Iterator[None]:
    """Inside the with-block, the system reads into the page cache as many blocks as the budget will let stay.

    The window finds these pages there and maps them. They are spread over the sweep, so that between them there is
    always something left to read while it computes. Nothing is read that the first sweep does not use; nothing at
    all where the window is bounded by blocks alone.

    ranks_here: how many ranks share this machine's memory. Raises DiskHung where the disk gives nothing for too long.
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
    """Reads until it is stopped: a daemon, because a disk that hangs must not keep the program alive."""

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
        """Lets it read no more than what it is reading."""
        self._over.set()

    def wait(self) -> None:
        """Returns when it has stopped."""
        while self.is_alive():
            self.join(self._patience.interval)
            if self.is_alive():
                self._patience.check(f"slab {self._slab.path}")


def _staying(slab: Slab, budget: int) -> list[tuple[int, int]]:
    """Start and stop in the file of blocks that are likely to be pinned, room for what is read around them left."""
    around = readahead(slab.path)
    try:
        pinned = plan({name: size + around for name, size in slab.resident.items()}, budget, _RESERVE).pinned
    except UserError:  # said, or not, when the rest of the memory is known
        return []
    return [(extent.offset, extent.stop) for name, extent in slab.sweep.items() if name in pinned]
