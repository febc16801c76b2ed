"""Calls of tools, which models write as JSON."""

import json
import re
import string
from collections.abc import Sequence
from secrets import choice
from typing import NoReturn

from tpi_mpi.serving.dialects.parts import Arguments, Part, ToolCall

_LETTERS = string.ascii_letters + string.digits
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Calls:
    """The calls of one answer, numbered as they come. tools: the names of what may be called."""

    def __init__(self, tools: Sequence[str]):
        self._tools = frozenset(tools)
        self._count = 0

    def of(self, value: object) -> list[Part]:
        """The parts of a call that is a JSON object with a name and arguments; none if it is no such call."""
        if not isinstance(value, dict):
            return []
        function = value.get("function")
        own = function if isinstance(function, dict) else value
        return self.named(own.get("name", function), own.get("arguments", own.get("parameters")))

    def named(self, name: object, arguments: object) -> list[Part]:
        """The parts of a call of a tool; none if there is no tool of that name, or if the arguments are no object."""
        if isinstance(arguments, str):  # some models write JSON within JSON
            arguments = value_of(arguments)
        if not isinstance(name, str) or name not in self._tools or not isinstance(arguments, dict):
            return []
        text = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))
        if not _is_unicode(text):
            return []
        index, self._count = self._count, self._count + 1
        return [ToolCall(index, _new_id(), name), Arguments(index, text)]


def value_of(text: str) -> object:
    """The value that a text of JSON has; None if it is no JSON."""
    value, end = first_value(text.strip())
    return value if end == len(text.strip()) else None


def first_value(text: str) -> tuple[object, int]:
    """The value that a text begins with, and where that ends; (None, 0) if there is none, or not yet its end."""
    try:
        return _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None, 0


def edge(pattern: re.Pattern, text: str, start: int, last: bool) -> re.Match | None:
    """The first match of a pattern that is not within a string of the JSON that begins at ``start``.

    last: whether nothing more comes; if then the strings go wrong, the first match of all is taken.
    """
    matches = list(pattern.finditer(text, start))
    outside = (match for match in matches if '"' not in _STRING.sub("", text[start : match.start()]))
    return next(outside, matches[0] if last and matches else None)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not in JSON")


# Not strict: models write line breaks within strings.
_DECODER = json.JSONDecoder(parse_constant=_refuse, strict=False)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which could not be sent
        return False
    return True


def _new_id() -> str:
    return "call_" + "".join(choice(_LETTERS) for _ in range(24))
