"""A server for one chat alone, which ends with it."""

import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.dialogue.characters import printable
from tpi_mpi.dialogue.remote import guard
from tpi_mpi.dialogue.remote.client import Client

# Seconds that a server has to end by itself: it gives its engine ten, and as many again after a signal.
_GRACE = 25.0
# Seconds that the guard has to kill the server, once that has had its time to end by itself.
_KILLING = 5.0
# Seconds in which a server that can no longer be reached is seen to have ended.
_SEEN = 1.0
# Lines of the log that tell why a server has ended.
_LAST_LINES = 10


class PrivateServer:
    """Starts a server and, at the end of the with-block or of this process, ends it.

    Only this process knows its API key. It is in a session of its own, so that Ctrl-C does not reach it. What it says
    goes to a log.

    slabs, ranks, options: its command line. module: the program. grace: seconds that it has to end by itself.
    """

    def __init__(
        self, slabs: Path, ranks: int, options: Sequence[str], module: str = "tpi_mpi.serve", grace: float = _GRACE
    ):
        self.ranks = ranks
        self._grace = grace
        self._command = [sys.executable, "-m", module, str(slabs), "--ranks", str(ranks), *options]

    def __enter__(self) -> "PrivateServer":
        self._directory = TemporaryDirectory(prefix="tpi_mpi-")
        self._key = secrets.token_urlsafe(32)
        self._ready, key_file, log = (Path(self._directory.name) / name for name in ("ready", "key", "log"))
        key_file.touch(mode=0o600)
        key_file.write_text(self._key)
        where = ["--host", "127.0.0.1", "--port", "0", "--ready-file", self._ready, "--api-key-file", key_file]
        guarding = [sys.executable, "-m", guard.__name__, self._directory.name, str(self._grace)]
        with open(log, "wb") as output:
            pipes = {"stdin": subprocess.PIPE, "stdout": output, "stderr": output}
            self._guard = subprocess.Popen([*guarding, *self._command, *where], start_new_session=True, **pipes)
        self._log, self._rest = open(log, "rb"), b""
        return self

    def __exit__(self, *exception) -> None:
        self._guard.stdin.close()
        try:
            self._guard.wait(self._grace + _KILLING)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        finally:
            self._log.close()
            self._directory.cleanup()

    def client(self) -> Client | None:
        """A client of the server, once that listens."""
        try:
            return Client(self._ready.read_text().strip(), self._key)
        except FileNotFoundError:  # or no longer: the guard removes it
            return None

    def said(self) -> list[str]:
        """The lines that the server has said since this was asked last."""
        *lines, self._rest = (self._rest + self._log.read()).split(b"\n")
        shown = (line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines)  # of a bar that moved, its last state
        return [printable(line.decode("utf-8", "replace")) for line in shown]

    def check(self, patience: float = 0.0) -> None:
        """Raises TpiError, or UserError for a mistake on its command line, if the server has ended.

        The last of what it said goes to standard error. patience: seconds to wait for its end.
        """
        try:
            status = self._guard.wait(patience)
        except subprocess.TimeoutExpired:
            return
        sys.stderr.write("".join(f"{line}\n" for line in self.said()[-_LAST_LINES:]))
        kind = UserError if status == UserError.status else TpiError
        raise kind(f"the server of this chat has ended with exit status {status}")

    def explain(self) -> None:
        """As :meth:`check`, for somebody whom the server has just failed."""
        self.check(_SEEN)
