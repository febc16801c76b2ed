"""Qwen 2.5, Qwen 3, Hermes: ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``, as many as there are."""

import re
from collections.abc import Sequence

from tpi_mpi.serving.dialects.calls import Calls, edge, value_of
from tpi_mpi.serving.dialects.parts import Content, Part
from tpi_mpi.serving.dialects.reader import Reader

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_EDGE = re.compile(f"{_OPEN}|{_CLOSE}")


class Hermes(Reader):
    """Reads text with calls in it. What is between the tags and is no call of a tool is text too, tags included."""

    def __init__(self, tools: Sequence[str]):
        super().__init__(self._content)
        self._calls = Calls(tools)

    def _content(self, last: bool) -> list[Part] | None:
        return self._take_until(_OPEN, self._call, last)

    def _call(self, last: bool) -> list[Part] | None:
        """From the white space before the tag on."""
        start = self._text.index(_OPEN) + len(_OPEN)
        if self._text[start:].lstrip()[:1] not in ("", "{"):
            self._state = self._content
            return self._take(Content, start)
        end = edge(_EDGE, self._text, start, last)
        return self._ended(start, end) if end or last else None

    def _ended(self, start: int, end: re.Match | None) -> list[Part]:
        """The call between two positions; models that end their turn there may leave out the second tag."""
        body = self._text[start : end.start() if end else None]
        after = len(self._text) if end is None else end.end() if end[0] == _CLOSE else end.start()
        parts = self._calls.of(value_of(body))
        if not parts:
            self._state = self._content
            return self._take(Content, after)
        self._text, self._state = self._text[after:], self._after_space(self._content)
        return parts
