"""How many rows of prompts a sweep can take on beside the tokens of other sequences."""

# Rows of prompts that a sweep takes in any case, so that newcomers never wait for ever.
_LEAST = 32
# What the latest sweep counts for in the averages.
_WEIGHT = 0.3
# The part of a sweep that must be spent waiting for computing to be no bottleneck.
_IDLE = 0.1


class Pace:
    """Learns from sweeps what a row of a prompt costs to compute, and how much time a sweep has left for that.

    While weights stream, or messages travel, a sweep takes its time whatever is computed; rows of prompts fill that
    time up to where computing would begin to cost. Where computing is all there is to do, they get as much time as
    the tokens beside them.

    most: the most rows of a sweep.
    """

    def __init__(self, most: int):
        self._most = most
        self._row: float | None = None  # seconds
        self._free: float | None = None  # seconds of a sweep

    def prompt_rows(self, decoding: bool) -> int:
        """The most rows of prompts in the next sweep. decoding: whether other sequences wait for tokens meanwhile."""
        if not decoding or not self._row:
            return self._most
        return max(_LEAST, min(self._most, int(self._free / self._row)))

    def observe(self, rows: int, prompt_rows: int, seconds: float, computing: float) -> None:
        """Takes note of a sweep: its rows, how many of them were of prompts, its time and that spent computing."""
        if prompt_rows:
            self._row = _average(self._row, computing / rows)
        prompts, waiting = (self._row or 0.0) * prompt_rows, seconds - computing
        spare = waiting + prompts if waiting > _IDLE * seconds else 0.0
        self._free = _average(self._free, max(spare, computing - prompts))


def _average(before: float | None, value: float) -> float:
    return value if before is None else (1 - _WEIGHT) * before + _WEIGHT * value
