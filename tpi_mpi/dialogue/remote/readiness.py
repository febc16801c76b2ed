"""Waiting until a server is ready, while a status line tells for how long."""

import sys
import time
from collections.abc import Sequence

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.terminal import StatusLine, own_terminal_width
from tpi_mpi.common.units import show_duration
from tpi_mpi.dialogue.remote.client import Client, Health
from tpi_mpi.dialogue.remote.private_server import PrivateServer

# Seconds between two looks at the server.
_TICK = 0.25


def wait_until_ready(client: Client) -> None:
    """Waits for a server that runs already. Raises TpiError if it cannot be reached or is about to end."""
    with _Waiting() as waiting:
        while not _is_ready(health := client.health()):
            waiting.tick(f"the server is {health.status} ...", health.detail)


def started(server: PrivateServer) -> Client:
    """Waits for a server that was started for this chat, and shows what it says. Raises TpiError if it ends."""
    with _Waiting() as waiting:
        while True:
            server.check()
            waiting.tell(server.said())
            client = server.client()
            if client and _is_ready(_health(server, client)):
                return client
            waiting.tick(f"starting {server.ranks} {'rank' if server.ranks == 1 else 'ranks'} ...")


def _health(server: PrivateServer, client: Client) -> Health:
    try:
        return client.health()
    except TpiError:
        server.explain()
        raise


def _is_ready(health: Health) -> bool:
    if health.hopeless:
        raise TpiError(f"the server is {health.status}{f': {health.detail}' if health.detail else ''}")
    return health.ready


class _Waiting:
    """A status line, where standard error is a terminal."""

    def __enter__(self) -> "_Waiting":
        self._line: StatusLine | None = None
        self._began = time.monotonic()
        return self

    def __exit__(self, *exception) -> None:
        self._clear()

    def tick(self, what: str, detail: str = "") -> None:
        """Shows what is waited for, and lets some time pass."""
        if width := own_terminal_width():
            self._line = StatusLine(width)
            self._line.show(f"{what} {show_duration(time.monotonic() - self._began)}{f': {detail}' if detail else ''}")
        time.sleep(_TICK)

    def tell(self, lines: Sequence[str]) -> None:
        """Writes lines to standard error, above the status line."""
        if lines:
            self._clear()
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()

    def _clear(self) -> None:
        if self._line:
            self._line.clear()
            self._line = None
