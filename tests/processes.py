"""Jobs that tests start, disturb, and see end."""

import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import REPOSITORY, environment, mpirun

SECONDS = 30  # in which a job must have ended, start included
HOST = socket.gethostname()


def start(*command, ranks: int = 3, **settings) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    arguments = [*mpirun(ranks), sys.executable, *map(str, command)]
    return subprocess.Popen(arguments, cwd=REPOSITORY, env=environment(), **pipes, **settings)


def ranks_of(slabs: Path) -> dict[int, int]:
    """The processes that still work on these slabs: rank -> process id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            variables = dict(
                entry.split("=", 1) for entry in (process / "environ").read_text().split("\0") if "=" in entry
            )
        except OSError:
            continue
        if str(slabs) in words and "-np" not in words:
            found[int(variables["OMPI_COMM_WORLD_RANK"])] = int(process.name)
    return found


def finish(process: subprocess.Popen, slabs: Path, since: float | None = None) -> tuple[int, str]:
    """The status and what was said. Fails unless everything ends in time."""
    since = since or time.monotonic()
    stderr = process.communicate(timeout=SECONDS + 20)[1]
    assert time.monotonic() - since < SECONDS
    while ranks_of(slabs):
        assert time.monotonic() - since < SECONDS
        time.sleep(0.1)
    return process.returncode, stderr
