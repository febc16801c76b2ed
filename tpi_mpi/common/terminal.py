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


def own_terminal_width() -> int | None:
    """As it is now, and of a process that no mpirun has started; None also if no escape sequences are wanted."""
    return None if is_plain() else _width("/proc/self/fd/2")


def is_plain() -> bool:
    """Whether the terminal obeys no escape sequences, or the person wants none: by TERM=dumb or NO_COLOR."""
    return os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))


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

    It must not be in the last column: once a line is full to its end, a terminal forgets at any of these sequences that
    the next character begins another.

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
