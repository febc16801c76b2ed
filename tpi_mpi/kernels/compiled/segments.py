"""The table of segments that attention is computed from."""

import numpy as np

from tpi_mpi.kernels.blocks import Segments, Shapes
from tpi_mpi.kernels.records.block import HEIGHT, KV_HEADS, ROWS_TOGETHER, SPAN, SPLIT
from tpi_mpi.kernels.records.segment import (
    COUNT,
    FIRST_ITEM,
    FIRST_QUERY,
    FIRST_ROW,
    FIRST_SPAN,
    FIRST_TOTAL,
    PAGES,
    QUERY_PLACES,
    SEGMENT,
    SPANS,
    START,
)


class Attended:
    """Segments as compiled code wants them, for all layers with one window.

    record: that of the block, as far as it does not change from call to call.
    items: of work. places: the addresses of the angles, of the table and its length, and of the segments of rows.
    """

    def __init__(self, segments: Segments, shapes: Shapes, record: np.ndarray, window: int | None):
        counts, starts = segments.counts, segments.starts
        self._table = t = np.zeros((len(counts), SEGMENT), np.int64)
        self._kept = segments
        t[:, FIRST_ROW], t[:, COUNT], t[:, START] = _before(counts), counts, starts
        t[:, PAGES] = segments.pages.ctypes.data + segments.sequences * segments.pages.strides[0]
        places = _places(counts * queries_together(shapes), int(record[HEIGHT]))
        t[:, FIRST_QUERY], t[:, QUERY_PLACES] = _before(places), places
        first = np.maximum(0, starts - window + 1) // SPAN if window else np.zeros_like(starts)
        spans = -(-(starts + counts) // SPAN) - first
        t[:, FIRST_SPAN], t[:, SPANS] = first, spans
        split, kv_heads = bool(record[SPLIT]), int(record[KV_HEADS])
        t[:, FIRST_TOTAL] = _before(places * kv_heads * (spans if split else 2))
        items = kv_heads * -(-places // ROWS_TOGETHER) * (spans if split else 1)
        t[:, FIRST_ITEM] = _before(items)
        self.items = int(items.sum())
        self._own = np.repeat(np.arange(len(counts)), counts)
        angles = segments.cosines.ctypes.data, segments.sines.ctypes.data
        self.places = *angles, t.ctypes.data, len(t), self._own.ctypes.data


def queries_together(shapes: Shapes) -> int:
    """The most query heads of this rank that read the same key-value head."""
    return min(shapes.heads, shapes.heads_per_kv)


def most_places(rows: int, shapes: Shapes, height: int) -> int:
    """The most places that the queries of ``rows`` positions take, of a key-value head, however they are divided."""
    queries = rows * queries_together(shapes)
    return min(2 * queries, -(-queries // height) * height + rows * height)


def _places(queries: np.ndarray, height: int) -> np.ndarray:
    """The rows of packs that hold so many rows of queries: full ones, and a last one of a power of two."""
    rest = queries % height
    return queries - rest + _PADDED[rest]


_PADDED = np.array([0, 1, 2, 4, 4, 8, 8, 8, 8], np.int64)
"""The least power of two that is not less, for numbers up to the height of a pack."""


def _before(sizes: np.ndarray) -> np.ndarray:
    """For each size, the sum of those before it."""
    return np.cumsum(sizes) - sizes
