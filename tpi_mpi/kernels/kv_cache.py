"""The keys and values of the positions so far, for this rank's heads alone."""

import numpy as np

from tpi_mpi.kernels.formats import TILE, Format, Tiled
from tpi_mpi.kernels.packing import Rows, dequantize, pack, unpack


class KVCache:
    """Keys and values of one sequence, for every layer.

    They lie as weights do, so that attention is two products: a head's keys are a matrix of positions times numbers,
    its values one of numbers times positions. The system provides memory only as positions are written.

    dtype: float32, bfloat16 or float16.
    """

    def __init__(self, layers: int, kv_heads: int, capacity: int, head_dim: int, dtype: str):
        self.dtype = dtype
        self.key_layout, self.value_layout = self.layouts(capacity, head_dim, dtype)
        self._keys, self._values = (
            np.zeros((layers, kv_heads, *layout.parts[0].shape), layout.parts[0].dtype)
            for layout in (self.key_layout, self.value_layout)
        )
        starts = (self._keys.ctypes.data, self._values.ctypes.data)
        steps = (self._keys.nbytes // layers, self._values.nbytes // layers)
        self.addresses = [tuple(a + layer * b for a, b in zip(starts, steps, strict=True)) for layer in range(layers)]

    @staticmethod
    def layouts(capacity: int, head_dim: int, dtype: str) -> tuple[Tiled, Tiled]:
        """How the keys and the values of a head lie."""
        format = Format(dtype)
        return Tiled(format, capacity, head_dim), Tiled(format, head_dim, capacity)

    @classmethod
    def size(cls, layers: int, kv_heads: int, capacity: int, head_dim: int, dtype: str) -> int:
        """The size in bytes of a cache made with these arguments."""
        return layers * kv_heads * sum(layout.nbytes for layout in cls.layouts(capacity, head_dim, dtype))

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    @property
    def capacity(self) -> int:
        """Positions for which there is room."""
        return self.key_layout.rows

    def append(self, layer: int, start: int, keys: np.ndarray, values: np.ndarray) -> None:
        """Stores keys and values, each (KV, T, head_dim) as stored, of the T positions from ``start`` on; slowly."""
        stop = start + keys.shape[1]
        for head, (own_keys, own_values) in enumerate(zip(keys, values, strict=True)):
            first = start // TILE * TILE
            rows = np.concatenate([self._rows(layer, head)[first:start], own_keys])
            self._keys[layer, head, first // TILE : -(-stop // TILE)] = pack(Rows(rows), self.key_layout)[0]
            columns = self._columns(layer, head)
            columns[:, start:stop] = own_values.T
            self._values[layer, head] = pack(Rows(columns), self.value_layout)[0]

    def read(self, layer: int, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values, float32 (KV, stop - first, head_dim), of the positions from ``first`` up to ``stop``."""
        heads = range(self._keys.shape[1])
        keys = [self._rows(layer, head)[first:stop] for head in heads]
        values = [self._columns(layer, head)[:, first:stop].T for head in heads]
        return tuple(dequantize(Rows(np.stack(each)), self.key_layout.format) for each in (keys, values))

    def _rows(self, layer: int, head: int) -> np.ndarray:
        return unpack([self._keys[layer, head]], self.key_layout).values

    def _columns(self, layer: int, head: int) -> np.ndarray:
        return unpack([self._values[layer, head]], self.value_layout).values
