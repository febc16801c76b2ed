"""How far a slow sweep has come: one line kept current on a terminal, or a line now and then in a log."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tpi_mpi.common.errors import say
from tpi_mpi.common.terminal import StatusLine, terminal_width
from tpi_mpi.common.units import format_size

# Seconds after which a sweep is slow enough to be worth a line.
_PATIENCE = 1.5
# Seconds from one line to the next, on a terminal and in a log.
_MOVING, _LOGGED = 0.2, 30.0


@dataclass(frozen=True)
class Progress:
    """How far a sweep is: blocks in all, and done; bytes fetched; seconds so far, and about as many more until its end.

    left_s: None as long as no block is done.
    """

    seconds: float
    blocks: int
    done: int
    bytes: int
    left_s: float | None


class SweepProgress:
    """Follows one sweep after another.

    blocks: the bytes of each block of a sweep, by name.
    fetched: returns the bytes fetched so far.
    shown: False where something else tells the progress of the run.
    """

    def __init__(self, blocks: Mapping[str, int], fetched: Callable[[], int], shown: bool = True):
        self._blocks = blocks
        self._fetched = fetched
        width = terminal_width()
        self._line = StatusLine(width) if width else None
        self._patience = _PATIENCE if shown else float("inf")
        self._total = sum(blocks.values())
        self._done = self._done_bytes = self._before = 0
        self._shown = time.monotonic()
        self._began: float | None = None

    @contextmanager
    def sweep(self) -> Iterator[None]:
        """Follows the sweep that takes place inside the with-block."""
        self._done = self._done_bytes = 0
        self._before = self._fetched()
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None
            if self._line:
                self._line.clear()

    def block(self, name: str) -> None:
        """Notes that a block was computed, and shows the line if it is time to."""
        self._done, self._done_bytes = self._done + 1, self._done_bytes + self._blocks[name]
        now = time.monotonic()
        if now - self._began > self._patience and now - self._shown > (_MOVING if self._line else _LOGGED):
            self._shown = now
            (self._line.show if self._line else say)(_text(self.now()))

    def now(self) -> Progress | None:
        """How far the sweep is that is under way, if any; for any thread to ask."""
        began, done = self._began, self._done_bytes
        if began is None:
            return None
        elapsed = time.monotonic() - began
        left = elapsed * (self._total - done) / done if done else None
        return Progress(elapsed, len(self._blocks), self._done, self._fetched() - self._before, left)


def _text(progress: Progress) -> str:
    blocks = f"{progress.done} of {progress.blocks} blocks"
    read = f"{format_size(progress.bytes)} read at {format_size(round(progress.bytes / progress.seconds))}/s"
    return f"{blocks}, {read}, {progress.left_s:.0f} s left for this token"
