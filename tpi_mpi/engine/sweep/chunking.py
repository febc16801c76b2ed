"""How the rows of a sweep are divided into chunks, which pass through each block one after another."""

from dataclasses import dataclass

from tpi_mpi.common.units import MIB

# The most rows of a chunk, and bytes of its hidden states: they bound the memory of activations. Matrix products of
# 128 rows already run at 95 percent of the speed of larger ones.
_MOST_ROWS, _MOST_BYTES = 256, 4 * MIB
# So many rows or more become two chunks or more: one can be computed while another is summed.
_OVERLAP_ROWS = 64
# Every chunk but the last is a multiple of this many rows.
_STEP = 16


@dataclass(frozen=True)
class Chunking:
    """How the sweeps of a run are divided.

    most: the most rows of a chunk. overlap: whether one chunk is computed while another is summed over the ranks.
    """

    most: int
    overlap: bool

    @classmethod
    def of(cls, hidden_size: int, most: int, overlap: bool) -> "Chunking":
        """For sweeps of up to ``most`` rows; with ``overlap``, those of many rows get at least two chunks."""
        return cls(min(most_rows(hidden_size), most), overlap)

    def sizes(self, rows: int) -> list[int]:
        """The rows of each chunk of a sweep: about as many in all of them, and at most ``most``."""
        chunks = -(-rows // self.most)
        if self.overlap and rows >= _OVERLAP_ROWS:
            chunks = max(2, chunks)
        size = min(self.most, -(-rows // (_STEP * chunks)) * _STEP)
        return [min(size, rows - start) for start in range(0, rows, size)]

    def overlaps(self, rows: int) -> bool:
        """Whether a sweep of this many rows is computed and summed at the same time."""
        return self.overlap and len(self.sizes(rows)) > 1


def most_rows(hidden_size: int) -> int:
    """The most rows that may pass through a block together."""
    return max(_STEP, min(_MOST_ROWS, _MOST_BYTES // (4 * hidden_size) // _STEP * _STEP))
