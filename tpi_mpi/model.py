"""One rank's share of the model: what it computes of each block. No MPI, no files."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from tpi_mpi.cache import KVCache
from tpi_mpi.config import ModelConfig
from tpi_mpi.layers import attention, causal_mask, gated, linear, rms_norm
from tpi_mpi.partition import Partition
from tpi_mpi.rope import Rope, rotate

Weights = Mapping[str, torch.Tensor]


@dataclass
class Span:
    """Consecutive positions that are computed together, and what all layers need to know of them.

    cos, sin: (count, rotary dim / 2)
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
        """(count, keys from first_key on); None for a single position, which sees all of them."""
        if self.count == 1:
            return None
        if window not in self._masks:
            self._masks[window] = causal_mask(self.start, self.count, self.first_key(window), window)
        return self._masks[window]


class ModelShare:
    """The computation of one rank. Weights are passed in, as the window delivers them.

    Every result named partial is (T, hidden_size) in float32, to be summed over the ranks.
    """

    def __init__(self, config: ModelConfig, partition: Partition, rank: int):
        self.config = config
        self.rope = Rope(config)
        start, stop = partition.heads[rank]
        kv_start, kv_stop = partition.kv_heads(rank)
        self.group = partition.group
        self.heads, self.kv_heads = stop - start, kv_stop - kv_start
        self.columns = partition.columns[rank][1] - partition.columns[rank][0]
        self.first_head = start - kv_start * partition.group
        self.head_slices = len(partition.vocabulary)

    def new_cache(self, capacity: int, dtype: torch.dtype) -> KVCache:
        return KVCache(*self._cache_shape(capacity), dtype)

    def cache_size(self, capacity: int, dtype: torch.dtype) -> int:
        """Bytes that the cache of a text of ``capacity`` tokens takes."""
        return KVCache.size(*self._cache_shape(capacity), dtype)

    def activations(self, length: int, chunk: int) -> int:
        """Bytes of the largest activations while a text of ``length`` tokens is computed by chunks."""
        config = self.config
        chunk = min(length, chunk)
        whole = 2 * length * config.hidden_size  # the hidden states, and their copy on its way to the others
        projected = chunk * (6 * config.hidden_size + 3 * self.columns + 6 * self.heads * config.head_dim)
        widened = 2 * self.kv_heads * length * config.head_dim  # keys and values in float32
        return 4 * (whole + projected + widened + chunk * length + config.vocab_size)

    def _cache_shape(self, capacity: int) -> tuple[int, int, int, int]:
        return self.config.num_hidden_layers, self.kv_heads, capacity, self.config.head_dim

    def span(self, start: int, count: int, length: int) -> Span:
        """The positions from ``start`` on, in a text that has ``length`` of them after this sweep."""
        return Span(start, count, *self.rope.tables(start, count, length))

    def attention(self, weights: Weights, hidden: torch.Tensor, layer: int, span: Span, cache: KVCache) -> torch.Tensor:
        """The partial of an attention block, from the hidden states (T, hidden_size) of the span's positions."""
        states = rms_norm(hidden, weights["input_layernorm.weight"], self.config.rms_norm_eps)
        queries = self._heads(weights, states, "q", self.heads)
        keys = self._heads(weights, states, "k", self.kv_heads)
        values = self._heads(weights, states, "v", self.kv_heads)
        cache.append(layer, span.start, rotate(keys, span.cos, span.sin), values)
        window = self.config.sliding_windows[layer]
        seen = cache.read(layer, span.first_key(window), span.stop)
        queries = rotate(queries, span.cos, span.sin)
        mixed = attention(queries, *seen, self.group, self.first_head, span.mask(window))  # (H, T, head_dim)
        return self._project(weights, "self_attn.o_proj", mixed.transpose(0, 1).flatten(1))

    def _heads(self, weights: Weights, states: torch.Tensor, letter: str, heads: int) -> torch.Tensor:
        """Queries, keys or values of the rank's own heads, (heads, T, head_dim)."""
        projected = self._project(weights, f"self_attn.{letter}_proj", states)
        projected = projected.view(len(states), heads, self.config.head_dim)
        norm = weights.get(f"self_attn.{letter}_norm.weight")
        if norm is not None:
            projected = rms_norm(projected, norm, self.config.rms_norm_eps)
        return projected.transpose(0, 1)

    def feed_forward(self, weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
        """The partial of a feed-forward block."""
        states = rms_norm(hidden, weights["post_attention_layernorm.weight"], self.config.rms_norm_eps)
        gate = self._project(weights, "mlp.gate_proj", states)
        up = self._project(weights, "mlp.up_proj", states)
        return self._project(weights, "mlp.down_proj", gated(self.config.hidden_act, gate, up))

    def final_norm(self, weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weights["norm.weight"], self.config.rms_norm_eps)

    @staticmethod
    def logits(weights: Weights, states: torch.Tensor) -> torch.Tensor:
        """Scores of one slice of the vocabulary, (T, rows of the slice)."""
        return linear(states, weights["lm_head.weight"])

    @staticmethod
    def _project(weights: Weights, name: str, states: torch.Tensor) -> torch.Tensor:
        return linear(states, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
