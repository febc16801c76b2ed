"""Which pages of the cache hold the positions of each sequence: what a rank is told, step by step."""

from collections.abc import Sequence

import numpy as np

from tpi_mpi.engine.sweep.step import Assignment
from tpi_mpi.kernels.kv_cache import pages_for
from tpi_mpi.model.room import Room


class PageTables:
    """pages: int64 (slots, most pages of a sequence)."""

    def __init__(self, room: Room):
        self.pages = np.zeros((room.sequences, pages_for(room.longest)), np.int64)

    def assign(self, assignments: Sequence[Assignment]) -> None:
        for assignment in assignments:
            self.pages[assignment.slot, assignment.place] = assignment.page
