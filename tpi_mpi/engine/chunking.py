"""How a prompt is dealt to chunks, which pass through a block one after the other."""

from dataclasses import dataclass

from tpi_mpi.common.units import MIB

# Chunks bound the memory of activations: each has at most so many tokens, and bytes of hidden states. Products of 128
# rows run at 95 percent of the speed of larger ones.
_MOST_ROWS, _MOST_BYTES = 256, 4 * MIB
# From so many tokens on there are two chunks at least, so that one can be computed while the other is added up.
_OVERLAP_ROWS = 64
# Chunks are of whole multiples of so many tokens, but for the last.
_STEP = 16


@dataclass(frozen=True)
class Chunking:
    """The chunks of one run.

    most: the most tokens of a chunk. overlap: whether one is computed while another is added up, where there are two.
    """

    most: int
    overlap: bool

    @classmethod
    def of(cls, hidden_size: int, capacity: int, overlap: bool) -> "Chunking":
        """For sequences of up to ``capacity`` positions."""
        return cls(min(most_rows(hidden_size), capacity), overlap)

    def sizes(self, tokens: int) -> list[int]:
        """How so many tokens are dealt: evenly, each chunk at most ``most``; with ``overlap``, to two or more."""
        chunks = -(-tokens // self.most)
        if self.overlap and tokens >= _OVERLAP_ROWS:
            chunks = max(2, chunks)
        rows = min(self.most, -(-tokens // (_STEP * chunks)) * _STEP)
        return [min(rows, tokens - start) for start in range(0, tokens, rows)]

    def overlaps(self, tokens: int) -> bool:
        """Whether a prompt of so many tokens is computed and added up at the same time."""
        return self.overlap and len(self.sizes(tokens)) > 1


def most_rows(hidden_size: int) -> int:
    """Tokens of a prompt that may pass through a block together."""
    return max(_STEP, min(_MOST_ROWS, _MOST_BYTES // (4 * hidden_size) // _STEP * _STEP))
