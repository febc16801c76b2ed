"""A chat from its beginning to its end."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tpi_mpi.common.errors import UserError
from tpi_mpi.dialogue import pipe
from tpi_mpi.dialogue.commands import Commands
from tpi_mpi.dialogue.conversation import Conversation
from tpi_mpi.dialogue.exchange import Exchange
from tpi_mpi.dialogue.options import DEFAULT_URL, ChatOptions
from tpi_mpi.dialogue.remote.client import Client
from tpi_mpi.dialogue.remote.private_server import PrivateServer
from tpi_mpi.dialogue.remote.readiness import started, wait_until_ready


def chat(options: ChatOptions) -> None:
    """Chats until the person leaves or standard input ends.

    Raises TpiError if the server does not get ready and, without a terminal, if a request fails.
    """
    _end_orderly()
    converse = _way()
    with _exchange(options, Conversation(options.system)) as exchange:
        converse(exchange, Commands(exchange.conversation, exchange.settings))


def _end_orderly() -> None:
    """Has signals that would end this process at once end its with-blocks first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def _way() -> Callable[[Exchange, Commands], None]:
    """How this chat goes: on a terminal, or through a pipe."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return pipe.converse
    try:
        from tpi_mpi.dialogue import terminal
    except ImportError:
        remedy = "pip install prompt_toolkit to chat on a terminal, or give the questions through a pipe"
        raise UserError(f"prompt_toolkit is not installed; {remedy}") from None
    return terminal.converse


@contextmanager
def _exchange(options: ChatOptions, conversation: Conversation) -> Iterator[Exchange]:
    """An exchange with a server that is ready; one that was started for it ends with the with-block."""
    if options.slabs is None:
        client = Client(options.url or DEFAULT_URL, options.api_key())
        wait_until_ready(client)
        yield Exchange(client, conversation, options.settings)
        return
    with PrivateServer(options.slabs, options.ranks, options.engine) as server:
        yield Exchange(started(server), conversation, options.settings, server.explain)
