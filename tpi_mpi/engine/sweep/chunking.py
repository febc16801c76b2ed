"""How a prompt is divided into chunks, which pass through each block one after another."""

from dataclasses import dataclass

from tpi_mpi.common.units import MIB

# The most tokens in a chunk, and bytes of its hidden states: they bound the memory of activations. Matrix products of
# 128 rows already run at 95 percent of the speed of larger ones.
_MOST_ROWS, _MOST_BYTES = 256, 4 * MIB
# A prompt of this many tokens or more becomes two chunks or more: one can be computed while another is summed.
_OVERLAP_ROWS = 64
# Every chunk but the last is a multiple of this many tokens.
_STEP = 16


@dataclass(frozen=True)
class Chunking:
    """How the prompts of one run are divided.

    most: the most tokens in a chunk. overlap: whether one chunk is computed while another is summed over the ranks.
    """

    most: int
    overlap: bool

    @classmethod
    def of(cls, hidden_size: int, capacity: int, overlap: bool) -> "Chunking":
        """For sequences of up to ``capacity`` positions; with ``overlap``, long prompts get at least two chunks."""
        return cls(min(most_rows(hidden_size), capacity), overlap)

    def sizes(self, tokens: int) -> list[int]:
        """The tokens of each chunk of a prompt: about as many in all of them, and at most ``most``."""
        chunks = -(-tokens // self.most)
        if self.overlap and tokens >= _OVERLAP_ROWS:
            chunks = max(2, chunks)
        rows = min(self.most, -(-tokens // (_STEP * chunks)) * _STEP)
        return [min(rows, tokens - start) for start in range(0, tokens, rows)]

    def overlaps(self, tokens: int) -> bool:
        """Whether a prompt of this many tokens is computed and summed at the same time."""
        return self.overlap and len(self.sizes(tokens)) > 1


def most_rows(hidden_size: int) -> int:
    """The most tokens of a prompt that may pass through a block together."""
    return max(_STEP, min(_MOST_ROWS, _MOST_BYTES // (4 * hidden_size) // _STEP * _STEP))
