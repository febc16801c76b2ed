"""What a run has room for at once: sequences, their keys and values, the rows of a sweep."""

from dataclasses import dataclass

from tpi_mpi.kernels.blocks import Shapes
from tpi_mpi.kernels.kv_cache import KVCache, pages_for
from tpi_mpi.model.config import ModelConfig

HEAD_ROWS = 32
"""The most rows whose logits are computed together, or whose last sums are made together."""


@dataclass(frozen=True)
class Room:
    """The most sequences at once; positions of the longest; pages of keys and values; and rows of a sweep."""

    sequences: int
    longest: int
    pages: int
    rows: int

    @classmethod
    def of_one(cls, longest: int) -> "Room":
        """For one sequence at a time, whose prompt is computed in one sweep."""
        return cls(1, longest, pages_for(longest), longest)

    def kv_bytes(self, config: ModelConfig, shapes: Shapes, kv_dtype: str) -> int:
        """Bytes of one rank's keys and values."""
        page = KVCache.size_of_page(config.num_hidden_layers, shapes.kv_heads, shapes.head_dim, kv_dtype)
        return self.pages * page

    def memory(self, config: ModelConfig, shapes: Shapes, kv_dtype: str, chunk: int) -> int:
        """Bytes that one rank needs besides weights. chunk: the most rows that pass through a block together."""
        states = 2 * self.rows  # the hidden states, and their copy in flight to the other ranks
        partials = 3 * min(chunk, self.rows) + 2 * min(HEAD_ROWS, self.rows)  # being computed, or on their way
        logits = (self.sequences + min(HEAD_ROWS, self.rows)) * config.vocab_size  # as a whole, and in slices
        numbers = (states + partials) * config.hidden_size + logits
        return self.kv_bytes(config, shapes, kv_dtype) + 4 * numbers
