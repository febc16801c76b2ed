"""One rank's shard of the model: the part of each block that it computes. No MPI, no files."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tpi_mpi.kernels.blocks import Segments, Shapes
from tpi_mpi.kernels.experts.mixture import Mixture
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.linear import Linear
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.model import names
from tpi_mpi.model.blocks import Kind, shard_blocks
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.names import bias_of, weight_of
from tpi_mpi.model.partition import Partition
from tpi_mpi.model.room import Room
from tpi_mpi.model.rope import Rope, rotated_size

# The tensors of blocks in the order in which kernels know them: see tpi_mpi.kernels.blocks.
_PROJECTIONS = (names.Q_PROJ, names.K_PROJ, names.V_PROJ, names.O_PROJ)
_ATTENTION = (
    *map(weight_of, (names.ATTENTION_NORM, *_PROJECTIONS)),
    *map(bias_of, _PROJECTIONS),
    *map(weight_of, (names.Q_NORM, names.K_NORM)),
    names.SINKS,
)
_GATED = (names.GATE_PROJ, names.UP_PROJ, names.DOWN_PROJ)
_FEED_FORWARD = (*map(weight_of, (names.FEED_FORWARD_NORM, *_GATED)), *map(bias_of, _GATED))
_SHARED = tuple(map(weight_of, (names.FEED_FORWARD_NORM, names.SHARED_GATE_PROJ, names.SHARED_UP_PROJ)))
_SHARED = (*_SHARED, weight_of(names.SHARED_DOWN_PROJ), None, None, None)
_ROUTER = (weight_of(names.FEED_FORWARD_NORM), weight_of(names.ROUTER), bias_of(names.ROUTER), names.CORRECTION)
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
        self._shared = linear.blocks(shared_shapes(self.shapes, partition, rank)) if partition.shared else None
        self.kv_dtype, self._rank = kv_dtype, rank

    def new_cache(self, pages: int, longest: int) -> KVCache:
        """Room for keys and values. longest: the most positions of a sequence."""
        shapes, layers = self.shapes, self.config.num_hidden_layers
        return KVCache(layers, shapes.kv_heads, pages, shapes.head_dim, self.kv_dtype, longest)

    def memory(self, room: Room, chunk: int) -> int:
        """Bytes needed besides weights for sequences, computed ``chunk`` rows at a time.

        Without what stays allocated once so many have been computed.
        """
        computing = self._compute.memory(min(chunk, room.rows), room.longest)
        return computing + room.memory(self.config, self.shapes, self.kv_dtype, chunk, self._rank)

    def segments(
        self,
        pages: np.ndarray,
        sequences: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        lengths: Sequence[int],
    ) -> Segments:
        """Rows that pass through the blocks together; see :class:`tpi_mpi.kernels.blocks.Segments`.

        lengths: that of each segment's sequence, in positions, on which some rotary embeddings depend.
        """
        return Segments(pages, sequences, starts, counts, *self.rope.tables(starts, counts, lengths))

    def attention(
        self, weights: Tensors, hidden: np.ndarray, layer: int, segments: Segments, cache: KVCache
    ) -> np.ndarray:
        """The partial of an attention block, from the hidden states (T, hidden_size) of the segments' positions.

        Adds their keys and values to the cache.
        """
        window = self.config.sliding_windows[layer]
        return self._compute.attention(weights.arranged(_ATTENTION), hidden, segments, cache, layer, window)

    def feed_forward(self, weights: Tensors, hidden: np.ndarray) -> np.ndarray:
        """The partial of a feed-forward block, from hidden states (T, hidden_size)."""
        return self._compute.feed_forward(weights.arranged(_FEED_FORWARD), hidden)

    def mixture(self, weights: Tensors, hidden: np.ndarray) -> Mixture:
        """Hidden states (T, hidden_size), dealt to the experts of a layer; what all rows share is computed already."""
        partial = self._shared.feed_forward(weights.arranged(_SHARED), hidden) if self._shared else None
        return self._compute.mixture(weights.arranged(_ROUTER), hidden, partial)

    def choice(self, weights: Tensors, hidden: np.ndarray) -> np.ndarray:
        """The experts that a layer's router chooses for hidden states (T, hidden_size): int64 (T, top_k)."""
        return self._compute.mixture(weights.arranged(_ROUTER), hidden).chosen

    def final_norm(self, weights: Tensors, hidden: np.ndarray) -> np.ndarray:
        """The final norm of hidden states (T, hidden_size); its weight comes with the first slice of the head."""
        return self._compute.normalise(weights.arranged(_HEAD), hidden)

    def logits(self, weights: Tensors, states: np.ndarray) -> np.ndarray:
        """The logits of one slice of the vocabulary, (T, rows of the slice) in float32."""
        return self.linear(states, weights[weight_of(names.LM_HEAD)])


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
        activation=config.activation,
        alpha=config.alpha,
        limit=config.limit,
        routing=config.experts.routing if config.experts else None,
    )


def shared_shapes(shapes: Shapes, partition: Partition, rank: int) -> Shapes:
    """Those of the experts that all rows go through, which are one feed-forward block."""
    start, stop = partition.shared[rank]
    return replace(shapes, columns=stop - start)
