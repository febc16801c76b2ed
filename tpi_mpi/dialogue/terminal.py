"""A chat on a terminal."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from tpi_mpi.common.errors import TpiError, say
from tpi_mpi.dialogue.commands import Commands
from tpi_mpi.dialogue.display import Display, dim
from tpi_mpi.dialogue.exchange import Exchange
from tpi_mpi.dialogue.prompt import Prompt
from tpi_mpi.dialogue.remote.activity import activity


def converse(exchange: Exchange, commands: Commands) -> None:
    """Does what a person types until that person leaves. What goes wrong is told, and is not the end."""
    _tell(f"{exchange.model} at {exchange.client.url}; /help lists the commands")
    for line in Prompt(commands.names).lines():
        try:
            outcome = commands.take(line)
            if outcome.said:
                _tell(outcome.said)
            if outcome.leaves:
                return
            if outcome.asks:
                _answer(exchange)
        except TpiError as error:
            say(str(error))


def _answer(exchange: Exchange) -> None:
    with _interruptible():
        try:
            with Display(partial(activity, exchange.client)) as display:
                answer = exchange.answer(display.show)
        except KeyboardInterrupt:
            _tell("stopped")
        else:
            _tell(answer.figures())


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt once within the with-block; whoever is impatient does not end the chat."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, lambda number, frame: None)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(text: str) -> None:
    sys.stdout.write(f"{dim(text)}\n")
    sys.stdout.flush()
