"""What an answer consists of, in the order in which it is written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Content:
    """Text for whoever asked."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """Text of what the model considers before it answers."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool begins. index: its number in the answer, from 0. id: what its result is to refer to."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class Arguments:
    """A piece of the arguments of a call, which all together are a JSON object. index: the number of the call."""

    index: int
    text: str


Part = Content | Reasoning | ToolCall | Arguments
