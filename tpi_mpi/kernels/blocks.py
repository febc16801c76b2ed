"""What is computed of a block beyond products: the shapes, the positions, and who computes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tpi_mpi.kernels.experts.mixture import Mixture
from tpi_mpi.kernels.experts.routing import Routing
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.operand import Arranged

ACTIVATIONS = ("silu", "relu", "gelu", "gelu_tanh", "clamped_swiglu")
"""Of feed-forward blocks; gelu_tanh approximates the one before by a hyperbolic tangent.

clamped_swiglu: the gate is at most ``limit``, and up within ``limit`` of zero; gate * sigmoid(alpha * gate) * (up + 1).
"""

ATTENTION = ("norm", "query", "key", "value", "output")
ATTENTION_OPTIONS = ("query bias", "key bias", "value bias", "output bias", "query norm", "key norm", "sinks")
FEED_FORWARD, FEED_FORWARD_OPTIONS = ("norm", "gate", "up", "down"), ("gate bias", "up bias", "down bias")
"""The order of a block's tensors, and of those that it need not have, after them."""


@dataclass(frozen=True)
class Shapes:
    """One rank's part of the blocks of a model.

    width: of the hidden states. eps: of the norms.
    heads, kv_heads: of this rank; each key-value head is read by ``heads_per_kv`` of the model's query heads.
    first_head: place of the first query head among those that read its key-value head. It need not be 0, because a
        rank's heads may begin and end anywhere.
    rotated: pairs of a head's numbers that turn with the position: (i, i + rotated).
    columns: of this rank, in feed-forward blocks. activation: one of :data:`ACTIVATIONS`.
    alpha, limit: of that activation, if it has them.
    routing: how rows are dealt to experts, if there are any.
    """

    width: int
    eps: float
    heads: int
    kv_heads: int
    heads_per_kv: int
    first_head: int
    head_dim: int
    rotated: int
    columns: int
    activation: str
    alpha: float = 1.0
    limit: float = 0.0
    routing: Routing | None = None


class Segments:
    """Rows that are computed together: consecutive positions of some sequences, one sequence after the other.

    pages: int64 (sequences, most), of every sequence the numbers of the pages that hold its positions, in order.
    sequences: int64 (S,), whose positions they are: rows of ``pages``.
    starts, counts: int64 (S,), the first position of each segment, and how many there are.
    cosines, sines: float32 (rows, rotated), of all positions.
    prepared: for whoever computes, what has been derived from all this; the same segments pass through all layers.
    """

    def __init__(
        self,
        pages: np.ndarray,
        sequences: Sequence[int],
        starts: Sequence[int],
        counts: Sequence[int],
        cosines: np.ndarray,
        sines: np.ndarray,
    ):
        self.pages, self.cosines, self.sines = pages, cosines, sines
        self.sequences, self.starts, self.counts = (
            np.asarray(numbers, np.int64) for numbers in (sequences, starts, counts)
        )
        self.prepared: dict = {}

    @property
    def rows(self) -> int:
        return len(self.cosines)


class Blocks(Protocol):
    """Computes one rank's partials of blocks: (T, width) in float32, to be summed over the ranks.

    Rows are independent; see :class:`tpi_mpi.kernels.linear.Linear`. So are sequences, which see their own pages alone.
    """

    def attention(
        self, tensors: Arranged, hidden: np.ndarray, segments: Segments, cache: KVCache, layer: int, window: int | None
    ) -> np.ndarray:
        """The partial of an attention block, from hidden states (T, width); keys and values join the cache.

        tensors: in the order of :data:`ATTENTION`. window: the positions that one sees, itself included; None for all.
        """

    def feed_forward(self, tensors: Arranged, hidden: np.ndarray) -> np.ndarray:
        """The partial of a feed-forward block, from hidden states (T, width).

        tensors: in the order of :data:`FEED_FORWARD`.
        """

    def mixture(self, tensors: Arranged, hidden: np.ndarray, partial: np.ndarray | None = None) -> Mixture:
        """Hidden states (T, width), normalised and dealt to experts; these get the normalised states that decided.

        The choice is bitwise the same on every CPU, and whoever computes it; so it is on every rank.

        tensors: in the order of :data:`tpi_mpi.kernels.experts.routing.ROUTER`. partial: what there is of the result
        already, float32 (T, width), to which the experts' is added; overwritten.
        """

    def normalise(self, tensors: Arranged, hidden: np.ndarray) -> np.ndarray:
        """Hidden states (T, width) normalised with the first tensor."""

    def memory(self, rows: int, longest: int) -> int:
        """Bytes that ``rows`` positions of sequences of up to ``longest`` take while they are computed, at most.

        Without what was allocated when as many had been computed before: mixtures too, by experts with every record.
        """
