"""One rank's shard of the model: the part of each block that it computes. No MPI, no files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from tpi_mpi.kernels.fallback import Fallback
from tpi_mpi.kernels.linear import Linear
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.work import DECODE, PROMPT
from tpi_mpi.model import names
from tpi_mpi.model.blocks import Kind, shard_blocks
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.kv_cache import KVCache
from tpi_mpi.model.layers import attention, causal_mask, gated, rms_norm
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

    @property
    def work(self) -> str:
        """The kind of work: a single position continues a sequence, several are a prompt."""
        return DECODE if self.count == 1 else PROMPT

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
    linear: multiplies with weights; without one, slowly.
    blocks: the blocks of a sweep on this rank, in order.
    """

    def __init__(
        self, config: ModelConfig, partition: Partition, rank: int, kv_dtype: str, linear: Linear | None = None
    ):
        self.config = config
        self.linear = linear or Fallback()
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
        projected = chunk * (6 * config.hidden_size + 4 * self.columns + 6 * self.heads * config.head_dim)
        ordered = 2 * chunk * max(config.hidden_size, self.columns, self.heads * config.head_dim)  # for kernels
        widened = 2 * self.kv_heads * length * config.head_dim  # keys and values in float32
        return 4 * (whole + projected + ordered + widened + chunk * length + config.vocab_size)

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
        modules = names.Q_PROJ, names.K_PROJ, names.V_PROJ
        projected = self._project_all(weights, modules, states, span.work)
        queries, keys, values = (own.view(len(hidden), -1, self.config.head_dim) for own in projected)
        if self.config.family.qk_norm:
            queries = self._normalise(weights, names.Q_NORM, queries)
            keys = self._normalise(weights, names.K_NORM, keys)
        attend = self._attend_many if self.linear.token is None or span.count > 1 else self._attend_one
        mixed = attend(queries, keys, values, layer, span, cache)
        return self._project(weights, names.O_PROJ, mixed, span.work)

    def _attend_many(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: int, span: Span, cache: KVCache
    ) -> torch.Tensor:
        """Attention of the positions of a span, (T, heads * head_dim); the span's keys and values join the cache.

        queries, keys, values: (T, heads, head_dim).
        """
        queries, keys, values = (own.transpose(0, 1) for own in (queries, keys, values))
        cache.append(layer, span.start, rotate(keys, span.cos, span.sin), values)
        window = self.config.sliding_windows[layer]
        seen = cache.read(layer, span.first_key(window), span.stop)
        queries = rotate(queries, span.cos, span.sin)
        mixed = attention(queries, *seen, self.heads_per_kv, self.first_head, span.mask(window))  # (H, T, head_dim)
        return mixed.transpose(0, 1).flatten(1)

    def _attend_one(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: int, span: Span, cache: KVCache
    ) -> torch.Tensor:
        """The same for a single position, compiled."""
        positions = span.first_key(self.config.sliding_windows[layer]), span.start
        angles, heads = (span.cos, span.sin), (self.first_head, self.heads_per_kv)
        return self.linear.token.attention(queries, keys, values, angles, cache.layer(layer), positions, heads)

    def feed_forward(self, weights: Weights, hidden: torch.Tensor, work: str) -> torch.Tensor:
        """The partial of a feed-forward block, from hidden states (T, hidden_size). work: DECODE or PROMPT."""
        states = self._normalise(weights, names.FEED_FORWARD_NORM, hidden)
        gate, up = self._project_all(weights, (names.GATE_PROJ, names.UP_PROJ), states, work)
        return self._project(weights, names.DOWN_PROJ, gated(self.config.hidden_act, gate, up), work)

    def final_norm(self, weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
        """The final norm of hidden states (T, hidden_size); its weight comes with the first slice of the head."""
        return self._normalise(weights, names.FINAL_NORM, hidden)

    def logits(self, weights: Weights, states: torch.Tensor) -> torch.Tensor:
        """The logits of one slice of the vocabulary, (T, rows of the slice) in float32."""
        return self._project(weights, names.LM_HEAD, states, DECODE)

    def _normalise(self, weights: Weights, module: str, states: torch.Tensor) -> torch.Tensor:
        norm = rms_norm if self.linear.token is None else self.linear.token.normalise
        return norm(states, weights[names.weight_of(module)], self.config.rms_norm_eps)

    def _project(self, weights: Weights, module: str, states: torch.Tensor, work: str) -> torch.Tensor:
        return self._project_all(weights, (module,), states, work)[0]

    def _project_all(
        self, weights: Weights, modules: Sequence[str], states: torch.Tensor, work: str
    ) -> list[torch.Tensor]:
        """Each module's product with the states (T, N), and its bias."""
        results = self.linear.several(states, [weights[names.weight_of(module)] for module in modules], work)
        for module, result in zip(modules, results, strict=True):
            bias = weights.get(names.bias_of(module))
            if bias is not None:
                result += bias
        return results
