"""A chat on a terminal."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tpi_mpi.common.errors import TpiError, say
from tpi_mpi.dialogue.commands import Commands, Outcome
from tpi_mpi.dialogue.display import Display, dim
from tpi_mpi.dialogue.exchange import Exchange
from tpi_mpi.dialogue.prompt import Prompt
from tpi_mpi.dialogue.remote.activity import activity


def converse(exchange: Exchange, commands: Commands) -> None:
    """Does what a person types until that person leaves. What goes wrong is told, and is not the end."""
    _tell(f"{exchange.model} at {exchange.client.url}; /help lists the commands")
    with _on_interrupt(_ignore):  # one that comes when the answer has just ended
        for line in Prompt(commands.names).lines():
            try:
                if _do(line, exchange, commands).leaves:
                    return
            except KeyboardInterrupt:
                _tell("stopped")
            except TpiError as error:
                say(str(error))


def _do(line: str, exchange: Exchange, commands: Commands) -> Outcome:
    outcome = commands.take(line)
    if outcome.said:
        _tell(outcome.said)
    if outcome.asks:
        _answer(exchange)
    return outcome


def _answer(exchange: Exchange) -> None:
    with Display(partial(activity, exchange.client)) as display, _on_interrupt(_stop):
        answer = exchange.answer(display.show)
    _tell(answer.figures())


def _ignore(number: int, frame: object) -> None:
    """What Ctrl-C does between answers; a prompt reads it as a key."""


def _stop(number: int, frame: object) -> None:
    """What Ctrl-C does during an answer: raises KeyboardInterrupt, and does nothing more when it is pressed again."""
    signal.signal(signal.SIGINT, _ignore)
    raise KeyboardInterrupt


@contextmanager
def _on_interrupt(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Within the with-block, Ctrl-C does what the handler does."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(text: str) -> None:
    sys.stdout.write(f"{dim(text)}\n")
    sys.stdout.flush()
