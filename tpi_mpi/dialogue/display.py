"""An answer on a terminal, as it comes."""

import sys
import threading
import time
from collections.abc import Callable

from tpi_mpi.common.terminal import StatusLine, is_plain, own_terminal_width
from tpi_mpi.common.units import show_duration
from tpi_mpi.dialogue.characters import column_after
from tpi_mpi.dialogue.remote.events import Piece

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
# Seconds between two states of the status line, which begins after as long a silence.
_TICK = 1.0


def dim(text: str) -> str:
    """The text as what is not part of an answer looks."""
    return text if is_plain() else f"{_DIM}{text}{_PLAIN}"


class Display:
    """Shows one answer, thoughts dimmed, in a with-block; and below it a status line while nothing comes.

    activity: what the server does now, as a phrase; may take its time.
    """

    def __init__(self, activity: Callable[[], str]):
        self._activity = activity
        self._line: StatusLine | None = None
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thinking = False
        self._written = ""
        self._column = 0

    def __enter__(self) -> "Display":
        self._heard = time.monotonic()
        if own_terminal_width():
            threading.Thread(target=self._watch, name="status", daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        with self._writing:
            self._ended.set()
            self._clear()
            self._think(False)
            self._write("" if self._written.endswith("\n") or not self._written else "\n")

    def show(self, piece: Piece) -> None:
        """Shows a piece that has just come."""
        with self._writing:
            self._clear()
            self._heard = time.monotonic()
            if piece.thought:
                self._think(True)
                self._write(piece.thought)
            if piece.text:
                self._think(False)
                self._write(piece.text)

    def _think(self, thinking: bool) -> None:
        """Begins or ends what is dimmed, which is a paragraph of its own."""
        if thinking == self._thinking:
            return
        self._thinking = thinking
        if not thinking:
            self._write("\n" if self._written.endswith("\n") else "\n\n")
        if not is_plain():
            sys.stdout.write(_DIM if thinking else _PLAIN)
            sys.stdout.flush()

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        self._written = text or self._written
        self._column = column_after(text, self._column, own_terminal_width() or sys.maxsize)

    def _clear(self) -> None:
        if self._line:
            self._line.clear()
            self._line = None

    def _tell(self, text: str) -> None:
        """Shows the status line, unless the cursor is in the last column; the width may have changed."""
        width = own_terminal_width()
        if width and self._column < width - 1:
            self._line = StatusLine(width)
            self._line.show(text)

    def _watch(self) -> None:
        """The status thread."""
        while not self._ended.wait(_TICK):
            if time.monotonic() - self._heard < _TICK:
                continue
            activity = self._activity()
            with self._writing:
                silence = time.monotonic() - self._heard
                if silence >= _TICK and not self._ended.is_set():
                    self._tell(f"waiting, {show_duration(silence)}{f'; {activity}' if activity else ''}")
