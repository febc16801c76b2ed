"""What a run has room for at once: sequences, their keys and values, the rows of a sweep."""

from dataclasses import dataclass

from tpi_mpi.kernels.blocks import Shapes
from tpi_mpi.kernels.kv_cache import PAGE, KVCache
from tpi_mpi.model.config import ModelConfig

# Bytes of a score, and of each of the most probable tokens beside it.
_SCORE, _TOP = 200, 130

HEAD_ROWS = 32
"""The most rows whose logits are computed together, or whose last sums are made together."""


@dataclass(frozen=True)
class Room:
    """The most sequences at once; positions of the longest; pages of keys and values; rows of a sweep.

    drafted: the most rows of a sweep that are drafted tokens.
    top: None if no prompt is scored; else how many of the most probable tokens are told at each position.
    """

    sequences: int
    longest: int
    pages: int
    rows: int
    top: int | None = None
    drafted: int = 0

    def kv_bytes(self, config: ModelConfig, shapes: Shapes, kv_dtype: str) -> int:
        """Bytes of one rank's keys and values."""
        page = KVCache.size_of_page(config.num_hidden_layers, shapes.kv_heads, shapes.head_dim, kv_dtype)
        return self.pages * page

    def memory(self, config: ModelConfig, shapes: Shapes, kv_dtype: str, chunk: int, rank: int) -> int:
        """Bytes that a rank needs besides weights. chunk: the most rows that pass through a block together.

        Experts are computed for all rows of a sweep at once.
        """
        chunk = self.rows if config.experts else chunk
        wanted = self.rows if self.top is not None else min(self.sequences + self.drafted, self.rows)
        states = 2 * (self.rows + wanted)  # the hidden states, and their copy in flight; those of the last layer
        partials = 3 * min(chunk, self.rows) + 2 * min(HEAD_ROWS, self.rows)  # being computed, or on their way
        numbers = (states + partials) * config.hidden_size
        others = self._rank_0(config, wanted) if rank == 0 else 0
        return self.kv_bytes(config, shapes, kv_dtype) + 4 * numbers + others

    def _rank_0(self, config: ModelConfig, wanted: int) -> int:
        """Bytes of logits, as a whole and in slices, and of the scores of all prompts that are under way."""
        logits = 4 * (self.sequences + self.drafted + min(HEAD_ROWS, wanted)) * config.vocab_size
        return logits + (0 if self.top is None else PAGE * self.pages * (_SCORE + _TOP * self.top))
