"""A server, from its start to its end: it listens at once, and answers as soon as its engine is ready."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tpi_mpi.common.errors import UserError, say
from tpi_mpi.common.files import replace_file
from tpi_mpi.common.options.programs import ServeOptions
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.intake import Intake
from tpi_mpi.serving.accounts import Accounts
from tpi_mpi.serving.desk import Desk
from tpi_mpi.serving.http.access import is_local
from tpi_mpi.serving.http.app import Addresses, application
from tpi_mpi.serving.http.service import Service
from tpi_mpi.serving.supervisor import Supervisor
from tpi_mpi.weights.slabs.directory import Manifest, own_slab

_MOST_CONNECTIONS = 512
# Seconds that a client may take to read what is sent, or to begin a request; and to read once everything is over.
_PATIENCE, _SILENCE, _LAST_WORDS = 120, 30, 2


def serve(options: ServeOptions) -> None:
    """Serves until a signal ends it. Raises TpiError if it cannot, or cannot any more."""
    keys = _keys(options)
    manifest = Manifest.load(options.engine.slabs)
    if manifest.ranks != options.ranks:
        raise UserError(f"the slabs were split for {manifest.ranks} ranks; give --ranks {manifest.ranks}")
    service = _service(options, manifest)
    with _listening(options.host, options.port) as listening:
        asyncio.run(_serve(options, service, keys, listening))


def _keys(options: ServeOptions) -> list[str]:
    """The clients' API keys. Raises UserError if there are none where some are needed."""
    if options.api_key_file:
        try:
            lines = options.api_key_file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"the API keys in {options.api_key_file} cannot be read: {error}") from None
        keys = [line.strip() for line in lines if line.strip()]
        if not keys or any(len(key.split()) > 1 or key.startswith("#") for key in keys):
            needed = "must hold an API key on each line, without spaces, and nothing else"
            raise UserError(f"{options.api_key_file} {needed}; write at least one")
        return keys
    if not is_local(options.host) and not options.no_api_key:
        reach = f"--host {options.host} can be reached by other machines"
        raise UserError(f"{reach}; give --api-key-file FILE, or --no-api-key to let everybody in")
    return []


def _service(options: ServeOptions, manifest: Manifest) -> Service:
    engine = options.engine
    config = own_slab(engine.slabs, 0, options.ranks).config
    longest = Demand.of_many(engine.longest, config.context_length, engine.machine.batch).longest
    intake = Intake(engine.slabs, config, longest, served=True)
    return Service(intake, options.model_name or manifest.model, options.queue)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """The socket that clients connect to. Raises UserError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_MOST_CONNECTIONS)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(f"cannot listen on {host} port {port} ({reason}); choose another --host or --port") from None
    with listening:
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # so that a client that does not read is given up
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PATIENCE * 1000)
        yield listening


async def _serve(options: ServeOptions, service: Service, keys: list[str], listening: socket.socket) -> None:
    desk, accounts = Desk(options.queue), Accounts()
    supervisor = Supervisor(options, desk, accounts)
    addresses = Addresses(service, desk, supervisor, accounts, options.log_prompts)
    app = application(addresses, keys, is_local(options.host), options.cors)
    http = _Http(app)
    url, signals = _url(listening), _signals()
    say(f"{url} has the page, {url}/v1 the protocol; {options.ranks} ranks of {service.model} are loading")
    if options.ready_file:
        replace_file(options.ready_file, url + "\n")
    talking = asyncio.ensure_future(http.serve(sockets=[listening]))
    running = asyncio.ensure_future(supervisor.run())
    ending = asyncio.ensure_future(_end(options, desk, supervisor, signals))
    try:
        await asyncio.wait({talking, running}, return_when=asyncio.FIRST_COMPLETED)
        supervisor.stop()
        await running
    finally:
        ending.cancel()
        http.should_exit = True
        await talking


def _signals() -> asyncio.Queue[int]:
    """What gets the signals that are to end the server, from now on."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, signals.put_nowait, signum)
    return signals


async def _end(options: ServeOptions, desk: Desk, supervisor: Supervisor, signals: asyncio.Queue[int]) -> None:
    """Waits for a signal, and brings everything to an end: what is under way may finish, until a second signal."""
    await signals.get()
    left = len(desk.waiting) + len(desk.running)
    supervisor.drain()
    if left:
        say(f"stopping once {left} sequences have ended, within {options.drain:.0f} s; a second signal stops at once")
    waits = {asyncio.ensure_future(desk.idle()), asyncio.ensure_future(signals.get())}
    await asyncio.wait(waits, timeout=options.drain, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    supervisor.stop()


class _Connection(H11Protocol):
    """A connection, which ends if nothing is asked on it."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.loop.call_later(_SILENCE, self._end_silence)

    def _end_silence(self) -> None:
        if self.cycle is None:
            self.transport.abort()


class _Http(uvicorn.Server):
    """uvicorn, which leaves signals to this program."""

    def __init__(self, app):
        quiet = {"log_level": "warning", "access_log": False, "server_header": False, "proxy_headers": False}
        limits = {"limit_concurrency": _MOST_CONNECTIONS, "timeout_graceful_shutdown": _LAST_WORDS}
        super().__init__(uvicorn.Config(app, lifespan="off", ws="none", http=_Connection, **quiet, **limits))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
