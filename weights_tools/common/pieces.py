"""The pieces in which large tensors are read."""

from tpi_mpi.kernels.formats import TILE

# About how many weights a piece has.
_WEIGHTS = 8 * 1024**2


def rows_at_once(width: int) -> int:
    """How many rows of this width a piece has: whole tiles, so that no writer waits for the rest of one."""
    return max(1, _WEIGHTS // width // TILE) * TILE
