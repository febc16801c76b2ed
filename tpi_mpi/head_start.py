"""A head start: the disk already reads the first blocks while the libraries are imported."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tpi_mpi.budget import plan
from tpi_mpi.errors import UserError
from tpi_mpi.memory import default_budget
from tpi_mpi.options import MachineOptions
from tpi_mpi.pages import readahead, warm
from tpi_mpi.processors import Processors
from tpi_mpi.slabs import Slab
from tpi_mpi.units import MIB

# Of a budget, what libraries and buffers will hardly exceed: they cannot be measured yet.
_RESERVE = 384 * MIB
# Asked for at once.
_PIECE = 32 * MIB


@contextmanager
def head_start(slab: Slab, processors: Processors, options: MachineOptions) -> Iterator[None]:
    """Inside the with-block, the system reads into the page cache as many blocks as the budget will let stay.

    The window finds these pages there and maps them. They are spread over the sweep, so that between them there is
    always something left to read while it computes. Nothing is read that the first sweep does not use; nothing at
    all where the window is bounded by blocks alone.
    """
    over = threading.Event()
    budget = options.memory or (0 if options.window else default_budget(processors.ranks))
    thread = threading.Thread(target=_read, args=(slab, budget, over), name="head start", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _read(slab: Slab, budget: int, over: threading.Event) -> None:
    extents = _staying(slab, budget)
    pieces = [(at, min(_PIECE, stop - at)) for start, stop in extents for at in range(start, stop, _PIECE)]
    descriptor = os.open(slab.path, os.O_RDONLY)
    for offset, length in pieces:
        if over.is_set() or not warm(descriptor, offset, length):
            break
    os.close(descriptor)


def _staying(slab: Slab, budget: int) -> list[tuple[int, int]]:
    """Start and stop in the file of blocks that are likely to be pinned, room for what is read around them left."""
    around = readahead(slab.path)
    sizes = {name: extent.nbytes + around for name, extent in slab.sweep.items()}
    try:
        pinned = plan(sizes, budget, _RESERVE).pinned
    except UserError:  # said, or not, when the rest of the memory is known
        return []
    return [(extent.offset, extent.offset + extent.nbytes) for name, extent in slab.sweep.items() if name in pinned]
