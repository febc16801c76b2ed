"""The keys and values of the positions so far, for this rank's heads alone."""

import torch


class KVCache:
    """Keys and values of one sequence, for every layer.

    The system provides memory only as positions are written, up to ``capacity`` of them.
    """

    def __init__(self, layers: int, kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype):
        self._states = torch.empty(layers, 2, kv_heads, capacity, head_dim, dtype=dtype)
        self._layers = [(keys, values) for keys, values in self._states]

    @staticmethod
    def size(layers: int, kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype) -> int:
        """The size in bytes of a cache made with these arguments."""
        return layers * 2 * kv_heads * capacity * head_dim * dtype.itemsize

    def append(self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Stores keys and values, each (KV, T, head_dim), of the T positions from ``start`` on."""
        stop = start + keys.shape[1]
        self._states[layer, 0, :, start:stop] = keys
        self._states[layer, 1, :, start:stop] = values

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a layer, each (KV, capacity, head_dim), at all positions, written or not."""
        return self._layers[layer]

    def read(self, layer: int, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each (KV, stop - first, head_dim), of the positions from ``first`` up to ``stop``."""
        return self._states[layer, 0, :, first:stop], self._states[layer, 1, :, first:stop]
