"""The terminal that shows standard error, if any: also through a local mpirun, which puts a pipe in between."""

import os
import sys
from functools import cache


@cache
def terminal_width() -> int | None:
    """The width of the terminal in columns; None if standard error does not end up on one."""
    for path in ("/proc/self/fd/2", f"/proc/{os.getppid()}/fd/2"):
        if width := _width(path):
            return width
    return None


def _width(path: str) -> int | None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.get_terminal_size(descriptor).columns or 80
    except OSError:  # not a terminal
        return None
    finally:
        os.close(descriptor)


class StatusLine:
    """A status line below the cursor. The cursor stays where it is, perhaps in the middle of streamed text.

    As VT100 sequences: move down and up again, so that there is a line below; save the cursor; write the line; restore
    the cursor.
    """

    _MAKE_ROOM, _SAVE, _BELOW, _BACK = "\x1bD\x1b[A", "\x1b7", "\n\x1b[K", "\x1b8"

    def __init__(self, width: int):
        self._width = width
        self._shown = False

    def show(self, text: str) -> None:
        self._write(self._MAKE_ROOM + self._SAVE + self._BELOW + text[: self._width - 1] + self._BACK)
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            self._write(self._SAVE + self._BELOW + self._BACK)
            self._shown = False

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
