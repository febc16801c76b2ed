"""A chat through a pipe: a question a line, and answers alone on standard output."""

import sys
from collections.abc import Iterator
from typing import TextIO

from tpi_mpi.common.errors import say
from tpi_mpi.dialogue.commands import Commands
from tpi_mpi.dialogue.exchange import Exchange
from tpi_mpi.dialogue.remote.events import Piece

_CONTINUED = "\\"


def converse(exchange: Exchange, commands: Commands) -> None:
    """Answers every line of standard input until that ends. Raises TpiError at the first that fails."""
    for line in questions(sys.stdin):
        outcome = commands.take(line)
        if outcome.said:
            say(outcome.said)
        if outcome.leaves:
            return
        if outcome.asks:
            _answer(exchange)


def questions(lines: TextIO) -> Iterator[str]:
    """What the lines say; one that ends with a backslash is continued by the next."""
    begun: list[str] = []
    for line in lines:
        text = line.rstrip("\n")
        begun.append(text.removesuffix(_CONTINUED))
        if not text.endswith(_CONTINUED):
            yield from _said(begun)
            begun = []
    yield from _said(begun)


def _said(lines: list[str]) -> list[str]:
    text = "\n".join(lines).strip()
    return [text] if text else []


def _answer(exchange: Exchange) -> None:
    answer = exchange.answer(_write)
    sys.stdout.write("" if answer.text.endswith("\n") else "\n")
    sys.stdout.flush()
    if answer.cut:
        say("the answer has ended at its limit of tokens; --max-tokens sets another")


def _write(piece: Piece) -> None:
    sys.stdout.write(piece.text)
    sys.stdout.flush()
