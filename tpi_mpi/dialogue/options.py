"""What the user asked for."""

import os
from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.dialogue.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_VARIABLE = "TPI_MPI_API_KEY"
"""The variable of the environment that holds the API key if no file does."""

_OF_SHARED_SERVERS = ("--host", "--port", "--ready-file", "--no-api-key")


@dataclass(frozen=True)
class ChatOptions:
    """The options of tpi_mpi.chat. Raises UserError for combinations that are not allowed.

    url: of a server that runs already, or None for the default. api_key_file: its API key, or None for what the
    environment says. slabs, ranks, engine: what to start a server for this chat with, or None; engine are options of
    tpi_mpi.serve, as on a command line.
    """

    settings: Settings
    url: str | None = None
    api_key_file: Path | None = None
    system: str | None = None
    slabs: Path | None = None
    ranks: int | None = None
    engine: tuple[str, ...] = ()

    def __post_init__(self):
        if self.slabs is None:
            self._refuse_engine()
            return
        if self.url is not None or self.api_key_file is not None:
            raise UserError("--url and --api-key-file are for a server that runs already; leave out SLABS, or these")
        self._refuse_sharing()
        if not self.slabs.is_dir():
            without = f"; without one, there is no option {self.engine[0]}" if self.engine else ""
            raise UserError(f"{self.slabs} is not a directory of slabs, which is named before all options{without}")
        if self.ranks is None or self.ranks < 1:
            raise UserError(f"--ranks is {self.ranks}; give how many ranks the slabs are for, at least 1")

    def _refuse_engine(self) -> None:
        """Raises UserError for options that only a server to be started could take."""
        if self.engine:
            raise UserError(f"unrecognized arguments: {' '.join(self.engine)}; see --help")
        if self.ranks is not None:
            raise UserError("--ranks needs SLABS: it is for a server that is started for this chat")

    def _refuse_sharing(self) -> None:
        """Raises UserError for options that would let others reach the server that is started for this chat."""
        for option in self.engine:
            if option.partition("=")[0] in _OF_SHARED_SERVERS:
                remedy = "start one that others can reach with python -m tpi_mpi.serve"
                raise UserError(f"{option} is not for a server of this chat alone; leave it out, or {remedy}")

    def api_key(self) -> str | None:
        """The API key of a server that runs already, if there is one. Raises UserError if it cannot be read."""
        if self.api_key_file is None:
            return _checked(os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE)
        try:
            return _checked(self.api_key_file.read_text(), str(self.api_key_file))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.api_key_file} cannot be read as an API key: {error}") from None


def _checked(text: str, origin: str) -> str | None:
    key = text.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"{origin} does not hold an API key; one line of letters, digits and signs is needed")
    return key or None
