"""One rank's shard of the model: the part of each block that it computes. No MPI, no files."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from tpi_mpi.kernels.operand import Operand
from tpi_mpi.model import names
from tpi_mpi.model.blocks import Kind, shard_blocks
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.kv_cache import KVCache
from tpi_mpi.model.layers import attention, causal_mask, gated, linear, rms_norm
from tpi_mpi.model.partition import Partition
from tpi_mpi.model.rope import Rope, rotate

Weights = Mapping[str, torch.Tensor | Operand]


@dataclass
class Span:
    """Consecutive positions that are computed together, and what all layers need to know about them.

    cos, sin: (count, rotary dim / 2), float32.
    """

    start: int
    count: int
    cos: torch.Tensor
    sin: torch.Tensor
    _masks: dict = field(default_factory=dict)

    @property
    def stop(self) -> int:
        return self.start + self.count

    def first_key(self, window: int | None) -> int:
        """The earliest position that any of these positions attends to."""
        return 0 if window is None else max(0, self.start - window + 1)

    def mask(self, window: int | None) -> torch.Tensor | None:
        """(count, keys from first_key on), true where seen; None for a single position, which sees all of them."""
        if self.count == 1:
            return None
        if window not in self._masks:
            self._masks[window] = causal_mask(self.start, self.count, self.first_key(window), window)
        return self._masks[window]


class ModelShard:
    """The computation of one rank. Weights are passed in as the window delivers them.

    Every partial is (T, hidden_size) in float32, to be summed over the ranks.
    blocks: the blocks of a sweep on this rank, in order.
    """

    def __init__(self, config: ModelConfig, partition: Partition, rank: int, kv_dtype: str):
        self.config = config
        self.rope = Rope(config)
        self.blocks = tuple(block for block in shard_blocks(config, partition, rank) if block.kind != Kind.EMBEDDING)
        start, stop = partition.heads[rank]
        kv_start, kv_stop = partition.kv_heads(rank)
        self.heads_per_kv = partition.heads_per_kv
        self.heads, self.kv_heads = stop - start, kv_stop - kv_start
        self.columns = partition.columns[rank][1] - partition.columns[rank][0]
        self.first_head = start - kv_start * partition.heads_per_kv
        self._kv_dtype = getattr(torch, kv_dtype)

    def new_cache(self, capacity: int) -> KVCache:
        return KVCache(*self._cache_shape(capacity), self._kv_dtype)

    def memory(self, capacity: int, chunk: int) -> int:
        """Bytes needed besides weights for a sequence of ``capacity`` positions, computed ``chunk`` at a time."""
        return KVCache.size(*self._cache_shape(capacity), self._kv_dtype) + self._activations(capacity, chunk)

    def _activations(self, length: int, chunk: int) -> int:
        """Peak bytes of activations while a sequence of ``length`` positions is computed, ``chunk`` at a time."""
        config = self.config
        chunk = min(length, chunk)
        whole = 2 * length * config.hidden_size  # the hidden states, and their copy in flight to the other ranks
        projected = chunk * (6 * config.hidden_size + 3 * self.columns + 6 * self.heads * config.head_dim)
        widened = 2 * self.kv_heads * length * config.head_dim  # keys and values in float32
        return 4 * (whole + projected + widened + chunk * length + config.vocab_size)

    def _cache_shape(self, capacity: int) -> tuple[int, int, int, int]:
        return self.config.num_hidden_layers, self.kv_heads, capacity, self.config.head_dim

    def span(self, start: int, count: int, length: int) -> Span:
        """``count`` positions from ``start`` on, in a sequence that has ``length`` positions after this sweep."""
        return Span(start, count, *self.rope.tables(start, count, length))

    def attention(self, weights: Weights, hidden: torch.Tensor, layer: int, span: Span, cache: KVCache) -> torch.Tensor:
        """The partial of an attention block, from the hidden states (T, hidden_size) of the span's positions.

        Appends the span's keys and values to the cache.
        """
        states = self._normalise(weights, names.ATTENTION_NORM, hidden)
        queries = self._heads(weights, states, names.Q_PROJ, names.Q_NORM)
        keys = self._heads(weights, states, names.K_PROJ, names.K_NORM)
        values = self._heads(weights, states, names.V_PROJ)
        cache.append(layer, span.start, rotate(keys, span.cos, span.sin), values)
        window = self.config.sliding_windows[layer]
        seen = cache.read(layer, span.first_key(window), span.stop)
        queries = rotate(queries, span.cos, span.sin)
        mixed = attention(queries, *seen, self.heads_per_kv, self.first_head, span.mask(window))  # (H, T, head_dim)
        return self._project(weights, names.O_PROJ, mixed.transpose(0, 1).flatten(1))

    def _heads(self, weights: Weights, states: torch.Tensor, module: str, norm: str | None = None) -> torch.Tensor:
        """Queries, keys or values of the rank's own heads, (heads, T, head_dim)."""
        projected = self._project(weights, module, states)
        projected = projected.view(len(states), -1, self.config.head_dim)
        if norm is not None and names.weight_of(norm) in weights:
            projected = self._normalise(weights, norm, projected)
        return projected.transpose(0, 1)

    def feed_forward(self, weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
        """The partial of a feed-forward block, from hidden states (T, hidden_size)."""
        states = self._normalise(weights, names.FEED_FORWARD_NORM, hidden)
        gate, up = self._project(weights, names.GATE_PROJ, states), self._project(weights, names.UP_PROJ, states)
        return self._project(weights, names.DOWN_PROJ, gated(self.config.hidden_act, gate, up))

    def final_norm(self, weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
        """The final norm of hidden states (T, hidden_size); its weight comes with the first slice of the head."""
        return self._normalise(weights, names.FINAL_NORM, hidden)

    def logits(self, weights: Weights, states: torch.Tensor) -> torch.Tensor:
        """The logits of one slice of the vocabulary, (T, rows of the slice) in float32."""
        return self._project(weights, names.LM_HEAD, states)

    def _normalise(self, weights: Weights, module: str, states: torch.Tensor) -> torch.Tensor:
        return rms_norm(states, weights[names.weight_of(module)], self.config.rms_norm_eps)

    @staticmethod
    def _project(weights: Weights, module: str, states: torch.Tensor) -> torch.Tensor:
        return linear(states, weights[names.weight_of(module)], weights.get(names.bias_of(module)))
