"""The keys and values of all sequences, in pages, for this rank's heads alone."""

from collections.abc import Sequence

import numpy as np

from tpi_mpi.kernels.formats import UNIT, Format, Tiled
from tpi_mpi.kernels.packing import Rows, dequantize, pack, unpack

PAGE = UNIT
"""Positions of a page."""


class KVCache:
    """Keys and values of every layer. A page has those of some consecutive positions of a sequence, of all layers.

    Which pages belong to which sequence is the caller's business; several sequences may have pages in common.

    They lie as weights do, so that attention is two products: in a page, a head's keys are a matrix of positions times
    numbers, its values one of numbers times positions. The system provides memory only as pages are written.

    pages: how many there are. longest: the most positions of a sequence. dtype: float32, bfloat16 or float16.
    """

    def __init__(self, layers: int, kv_heads: int, pages: int, head_dim: int, dtype: str, longest: int):
        self.dtype, self.longest, self.kv_heads = dtype, longest, kv_heads
        self.key_layout, self.value_layout = self.layouts(head_dim, dtype)
        self.layer_bytes = kv_heads * (self.key_layout.nbytes + self.value_layout.nbytes)
        self.page_bytes = layers * self.layer_bytes
        self._pages = np.zeros((pages, layers, self.layer_bytes), np.uint8)
        start = self._pages.ctypes.data
        self.addresses = [start + layer * self.layer_bytes for layer in range(layers)]

    @staticmethod
    def layouts(head_dim: int, dtype: str) -> tuple[Tiled, Tiled]:
        """How the keys and the values of a head lie in a page."""
        format = Format(dtype)
        return Tiled(format, PAGE, head_dim), Tiled(format, head_dim, PAGE)

    @classmethod
    def size_of_page(cls, layers: int, kv_heads: int, head_dim: int, dtype: str) -> int:
        """Bytes of a page of a cache made with these arguments."""
        return layers * kv_heads * sum(layout.nbytes for layout in cls.layouts(head_dim, dtype))

    @property
    def values_offset(self) -> int:
        """Bytes from a layer's keys to its values."""
        return self.kv_heads * self.key_layout.nbytes

    def copy(self, source: int, target: int) -> None:
        """Copies a page."""
        self._pages[target] = self._pages[source]

    def append(self, layer: int, pages: Sequence[int], start: int, keys: np.ndarray, values: np.ndarray) -> None:
        """Stores keys and values, each (KV, T, head_dim) as stored, of T positions from ``start`` on; slowly.

        pages: those of the sequence, from its first position on.
        """
        stop = start + keys.shape[1]
        for place in range(start // PAGE, pages_for(stop)):
            first, last = max(start, place * PAGE), min(stop, (place + 1) * PAGE)
            here, source = slice(first - place * PAGE, last - place * PAGE), slice(first - start, last - start)
            for head in range(self.kv_heads):
                key_part, value_part = self._parts(layer, pages[place], head)
                rows, columns = (
                    unpack([key_part], self.key_layout).values,
                    unpack([value_part], self.value_layout).values,
                )
                rows[here], columns[:, here] = keys[head, source], values[head, source].T
                key_part[:], value_part[:] = (
                    pack(Rows(rows), self.key_layout)[0],
                    pack(Rows(columns), self.value_layout)[0],
                )

    def read(self, layer: int, pages: Sequence[int], first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values, float32 (KV, stop - first, head_dim), of the positions from ``first`` up to ``stop``."""
        found = []
        for head in range(self.kv_heads):
            parts = [self._parts(layer, page, head) for page in pages[: -(-stop // PAGE)]]
            keys = np.concatenate([unpack([part], self.key_layout).values for part, _ in parts])
            values = np.concatenate([unpack([part], self.value_layout).values.T for _, part in parts])
            found.append([keys[first:stop], values[first:stop]])
        return tuple(dequantize(Rows(np.stack(each)), self.key_layout.format) for each in zip(*found, strict=True))

    @property
    def _layouts(self) -> tuple[Tiled, Tiled]:
        return self.key_layout, self.value_layout

    def _parts(self, layer: int, page: int, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Views of a head's keys and values in a page, as they are stored."""
        views, at = [], 0
        for layout in self._layouts:
            (part,) = layout.parts
            start = at + head * layout.nbytes
            views.append(self._pages[page, layer, start : start + layout.nbytes].view(part.dtype).reshape(part.shape))
            at += self.kv_heads * layout.nbytes
        return tuple(views)


def pages_for(positions: int) -> int:
    """The pages that hold so many positions of a sequence."""
    return -(-positions // PAGE)
