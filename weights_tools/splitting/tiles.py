"""Rows of one matrix, gathered into the tiles that a slab stores."""

from collections.abc import Iterator

import numpy as np

from tpi_mpi.kernels.formats import TILE, Tiled
from tpi_mpi.kernels.packing import Rows, pack

# About how many bytes of codes are packed at a time: they stay in the caches until they are hashed and copied.
_AT_ONCE = 512 * 1024


class Tiles:
    """Packs rows that come in pieces of any height, in order.

    The scales and zero points lie behind all codes, and are kept until then: they are a small part of a matrix.
    """

    def __init__(self, layout: Tiled):
        self._layout = layout
        self._missing = layout.rows
        self._gathered: list[Rows] = []
        self._later: list[list[np.ndarray]] = [[] for _ in layout.parts[1:]]
        self._height = max(1, _AT_ONCE * layout.tiles // layout.parts[0].nbytes) * TILE

    def add(self, rows: Rows) -> Iterator[np.ndarray]:
        """The codes of all tiles that these rows complete, some at a time."""
        self._missing -= len(rows)
        assert self._missing >= 0, f"{-self._missing} rows more than the matrix has"
        if self._gathered:
            rows = Rows.joined([*self._gathered, rows])
        whole = len(rows) // TILE * TILE if self._missing else len(rows)
        for first in range(0, whole, self._height):
            codes, *others = pack(rows[first : min(first + self._height, whole)], self._layout)
            for kept, own in zip(self._later, others, strict=True):
                kept.append(own)
            yield codes
        self._gathered = [rows[whole:]] if whole < len(rows) else []

    def rest(self) -> list[np.ndarray]:
        """The parts other than the codes; none until all rows have been added."""
        return [] if self._missing else [np.concatenate(part) for part in self._later]
