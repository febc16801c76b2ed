"""One rank's shard of the model: the part of each block that it computes. No MPI, no files."""

import numpy as np

from tpi_mpi.kernels.blocks import DECODE, PROMPT, Shapes, Span
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.linear import Linear
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.model import names
from tpi_mpi.model.blocks import Kind, shard_blocks
from tpi_mpi.model.config import ACTIVATIONS, ModelConfig
from tpi_mpi.model.names import bias_of, weight_of
from tpi_mpi.model.partition import Partition
from tpi_mpi.model.rope import Rope, rotated_size

# The tensors of blocks in the order in which kernels know them: see tpi_mpi.kernels.blocks.
_PROJECTIONS = (names.Q_PROJ, names.K_PROJ, names.V_PROJ, names.O_PROJ)
_ATTENTION = (
    *map(weight_of, (names.ATTENTION_NORM, *_PROJECTIONS)),
    *map(bias_of, _PROJECTIONS),
    *map(weight_of, (names.Q_NORM, names.K_NORM)),
)
_GATED = (names.GATE_PROJ, names.UP_PROJ, names.DOWN_PROJ)
_FEED_FORWARD = (*map(weight_of, (names.FEED_FORWARD_NORM, *_GATED)), *map(bias_of, _GATED))
_HEAD = (weight_of(names.FINAL_NORM), weight_of(names.LM_HEAD))


class ModelShard:
    """The computation of one rank. Weights are passed in as the window delivers them.

    Every partial is (T, hidden_size) in float32, to be summed over the ranks.
    linear: multiplies with weights.
    blocks: the blocks of a sweep on this rank, in order.
    """

    def __init__(self, config: ModelConfig, partition: Partition, rank: int, kv_dtype: str, linear: Linear):
        self.config = config
        self.linear = linear
        self.rope = Rope(config)
        self.blocks = tuple(block for block in shard_blocks(config, partition, rank) if block.kind != Kind.EMBEDDING)
        self.shapes = shapes_of(config, partition, rank)
        self._compute = linear.blocks(self.shapes)
        self._kv_dtype = kv_dtype

    def new_cache(self, capacity: int) -> KVCache:
        shapes = self.shapes
        return KVCache(self.config.num_hidden_layers, shapes.kv_heads, capacity, shapes.head_dim, self._kv_dtype)

    def memory(self, capacity: int, chunk: int) -> int:
        """Bytes needed besides weights for a sequence of ``capacity`` positions, computed ``chunk`` at a time.

        Without what stays allocated once so many have been computed.
        """
        computing = self._compute.memory(min(chunk, capacity), capacity)
        return computing + sequence_memory(self.config, self.shapes, self._kv_dtype, capacity, chunk)

    def span(self, start: int, count: int, length: int) -> Span:
        """``count`` positions from ``start`` on, in a sequence that has ``length`` positions after this sweep.

        A single position continues a sequence; several are a prompt.
        """
        return Span(start, *self.rope.tables(start, count, length), DECODE if count == 1 else PROMPT)

    def attention(self, weights: Tensors, hidden: np.ndarray, layer: int, span: Span, cache: KVCache) -> np.ndarray:
        """The partial of an attention block, from the hidden states (T, hidden_size) of the span's positions.

        Appends the span's keys and values to the cache.
        """
        window = self.config.sliding_windows[layer]
        return self._compute.attention(weights.arranged(_ATTENTION), hidden, span, cache, layer, window)

    def feed_forward(self, weights: Tensors, hidden: np.ndarray, work: str) -> np.ndarray:
        """The partial of a feed-forward block, from hidden states (T, hidden_size). work: DECODE or PROMPT."""
        return self._compute.feed_forward(weights.arranged(_FEED_FORWARD), hidden, work)

    def final_norm(self, weights: Tensors, hidden: np.ndarray) -> np.ndarray:
        """The final norm of hidden states (T, hidden_size); its weight comes with the first slice of the head."""
        return self._compute.normalise(weights.arranged(_HEAD), hidden)

    def logits(self, weights: Tensors, states: np.ndarray) -> np.ndarray:
        """The logits of one slice of the vocabulary, (T, rows of the slice) in float32."""
        return self.linear(states, weights[weight_of(names.LM_HEAD)], DECODE)


def sequence_memory(config: ModelConfig, shapes: Shapes, kv_dtype: str, capacity: int, chunk: int) -> int:
    """Bytes of a sequence of ``capacity`` positions, computed ``chunk`` at a time: what one rank keeps of it."""
    cache = KVCache.size(config.num_hidden_layers, shapes.kv_heads, capacity, shapes.head_dim, kv_dtype)
    whole = 2 * capacity * config.hidden_size  # the hidden states, and their copy in flight to the other ranks
    partials = 3 * min(chunk, capacity) * config.hidden_size  # one being computed, and two on their way
    return cache + 4 * (whole + partials + 2 * config.vocab_size)  # logits, in slices and as a whole


def shapes_of(config: ModelConfig, partition: Partition, rank: int) -> Shapes:
    """The shapes of a rank's part of the blocks."""
    start, stop = partition.heads[rank]
    kv_start, kv_stop = partition.kv_heads(rank)
    return Shapes(
        width=config.hidden_size,
        eps=config.rms_norm_eps,
        heads=stop - start,
        kv_heads=kv_stop - kv_start,
        heads_per_kv=partition.heads_per_kv,
        first_head=start - kv_start * partition.heads_per_kv,
        head_dim=config.head_dim,
        rotated=rotated_size(config) // 2,
        columns=partition.columns[rank][1] - partition.columns[rank][0],
        activation=ACTIVATIONS[config.hidden_act],
    )
