"""gpt-oss: messages, each with a header that says on which channel it is or which function it is to.

``<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...<|return|>`` is reasoning and
an answer; ``<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>`` calls a tool.
"""

import re
from collections.abc import Sequence

from tpi_mpi.serving.dialects.calls import Calls, edge, value_of
from tpi_mpi.serving.dialects.parts import Content, Part, Reasoning
from tpi_mpi.serving.dialects.reader import Reader
from tpi_mpi.tokenizer.detokenizer import overlap

_MESSAGE = "<|message|>"
_ENDS, _BEGINNINGS = ("<|end|>", "<|call|>", "<|return|>"), ("<|start|>", "<|channel|>")
_EDGE = re.compile("|".join(map(re.escape, _ENDS + _BEGINNINGS)))
_HEADERS = (*_BEGINNINGS, "to=")
_RECIPIENT, _CHANNEL = re.compile(r"\bto=([^\s<]+)"), re.compile(r"<\|channel\|>\s*(\w+)")
_BETWEEN = "\n\n"


class Harmony(Reader):
    """Reads messages, from the header of the first on. One to anything but a tool is text, header included."""

    def __init__(self, tools: Sequence[str]):
        super().__init__(self._header)
        self._tools, self._calls = frozenset(tools), Calls(tools)
        self._name = ""  # of the tool that is called
        self._kind: type[Content] | type[Reasoning] = Content
        self._whole = False  # whether the mark at the end of a message is text too
        self._before: set[type] = set()  # kinds of messages that have said something
        self._begun = False  # whether this one has

    def _header(self, last: bool) -> list[Part] | None:
        start = self._text.lstrip()
        if not start.startswith(_HEADERS) and (last or not any(form.startswith(start) for form in _HEADERS)):
            return self._open(Content, 0)  # a text without a header
        end = self._text.find(_MESSAGE)
        if end >= 0:
            return self._addressed(self._text[:end], end + len(_MESSAGE))
        if last and start.startswith(_BEGINNINGS) and not _RECIPIENT.search(start):
            self._text = ""  # cut off before it said anything
        return (self._take(Content, len(self._text)) or None) if last else None

    def _addressed(self, header: str, length: int) -> list[Part]:
        """What comes of a complete header of some length."""
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        if recipient and (name := recipient[1].removeprefix("functions.")) in self._tools:
            self._name, self._state = name, self._call
            return []
        if recipient:
            return self._open(Content, 0, whole=length)
        return self._open(Reasoning if channel and channel[1] == "analysis" else Content, length)

    def _open(self, kind: type[Content] | type[Reasoning], dropped: int, whole: int = 0) -> list[Part]:
        """Begins a message after what is dropped of the text; ``whole``: length of a header that is part of it."""
        self._text = self._text[dropped:]
        self._kind, self._whole, self._begun, self._state = kind, bool(whole), False, self._body
        return self._take(kind, whole)

    def _body(self, last: bool) -> list[Part] | None:
        end = _EDGE.search(self._text)
        if end is None:
            held = 0 if last else max(overlap(self._text, mark) for mark in _ENDS + _BEGINNINGS)
            return self._say(len(self._text) - held) or None
        parts = self._say(_after(end) if self._whole else end.start())
        self._close(0 if self._whole else _after(end) - end.start())
        return parts

    def _say(self, count: int) -> list[Part]:
        """So many characters of a message, apart from an earlier one of its kind."""
        parts = self._take(self._kind, count)
        if parts and not self._begun:
            self._begun = True
            parts = [self._kind(_BETWEEN)] * (self._kind in self._before and not self._whole) + parts
            self._before.add(self._kind)
        return parts

    def _close(self, count: int) -> None:
        """Drops so many characters, after which the next header may begin."""
        self._text, self._state = self._text[count:], self._after_space(self._header)

    def _call(self, last: bool) -> list[Part] | None:
        """From the header on, which is complete."""
        start = self._text.index(_MESSAGE) + len(_MESSAGE)
        end = edge(_EDGE, self._text, start, last)
        if end is None and not last:
            return None
        after = _after(end) if end else len(self._text)
        parts = self._calls.named(self._name, value_of(self._text[start : end.start() if end else None]))
        if not parts:
            parts, after = self._take(Content, after), 0
        self._close(after)
        return parts


def _after(end: re.Match) -> int:
    """Where the mark at the end of a message ends; the one that begins the next is not part of this one."""
    return end.end() if end[0] in _ENDS else end.start()
