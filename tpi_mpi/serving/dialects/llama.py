"""Llama 3.1, 3.2, 3.3: the answer is ``{"name": ..., "parameters": {...}}``, or several of these between semicolons."""

import re
import string
from collections.abc import Sequence

from tpi_mpi.serving.dialects.calls import Calls, first_value
from tpi_mpi.serving.dialects.parts import Content, Part
from tpi_mpi.serving.dialects.reader import Reader

_TAG = "<|python_tag|>"
_LEAD = re.compile(rf"\s*(?:{re.escape(_TAG)}\s*)?")
_KEY = re.compile(r'\{\s*"([^"]*)"')
_KEYS = ("type", "id", "name", "function", "parameters", "arguments")


class Llama(Reader):
    """Reads calls that an answer begins with, or that stand behind the tag. Any other JSON is text."""

    def __init__(self, tools: Sequence[str]):
        super().__init__(self._beginning)
        self._calls = Calls(tools)

    def _beginning(self, last: bool) -> list[Part] | None:
        start = self._text.lstrip()
        if not start and not last:
            return None
        self._state = self._call if start.startswith("{") else self._content
        return []

    def _content(self, last: bool) -> list[Part] | None:
        return self._take_until(_TAG, self._call, last)

    def _call(self, last: bool) -> list[Part] | None:
        """From the white space before the tag on, or before the JSON."""
        lead = _LEAD.match(self._text).end()
        if _is_no_call(self._text[lead:]):
            self._state = self._content
            return self._take(Content, lead)
        value, length = first_value(self._text[lead:])
        if not length and not last:
            return None
        parts = self._calls.of(value)
        if not parts:
            self._state = self._content
            return self._take(Content, lead + length if length else len(self._text))
        self._text, self._state = self._text[lead + length :], self._between
        return parts

    def _between(self, last: bool) -> list[Part] | None:
        self._text = self._text.lstrip(string.whitespace + ";")
        if not self._text and not last:
            return None
        self._state = self._beginning
        return []


def _is_no_call(text: str) -> bool:
    """Whether it is certain that a text, of which there may be more to come, is no call."""
    inside = text[1:].lstrip()
    key = _KEY.match(text)
    return text[:1] not in ("", "{") or inside[:1] not in ("", '"') or bool(key and key[1] not in _KEYS)
