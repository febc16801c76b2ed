"""Ends a job that MPI cannot end, because its launcher waits for a machine that no longer answers."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# The processes that start ranks under Open MPI, MPICH and their derivatives.
_LAUNCHERS = {
    *("mpirun", "mpiexec", "prterun", "prted", "orterun", "orted"),
    *("mpiexec.hydra", "hydra_pmi_proxy", "mpiexec.gforker"),
}

# Seconds between checks that the processes are still alive.
_GLANCE = 0.05


def kill_after(seconds: float) -> None:
    """Forks a process that kills this one, its local launcher and their descendants if they live on for ``seconds``.

    A launcher is killed only if it is an ancestor of this process; batch systems end what they started themselves.
    """
    doomed = [process for process in (_launcher(), os.getpid()) if process]  # launcher first, or it would complain
    began = {process: _stat(process).began for process in doomed}
    if os.fork():
        return
    try:
        os.setsid()  # a session of its own, so that the launcher does not kill it with the ranks
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(_stat(process).began == began[process] for process in doomed):
            time.sleep(_GLANCE)
        for process in doomed:
            if _stat(process).began == began[process]:  # not another process that reuses the id
                _kill([process, *(child for child in _below(process) if child != os.getpid())])
    finally:
        os._exit(0)


def _launcher() -> int | None:
    """The nearest ancestor that is a launcher; None without one, or on a system without /proc."""
    process = os.getppid()
    while process > 1:
        found = _stat(process)
        if found.name in _LAUNCHERS:
            return process
        process = found.parent
    return None


def _below(process: int) -> list[int]:
    """All descendants of a process."""
    children = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _stat(int(path.name)).parent == process]
    return [descendant for child in children for descendant in [child, *_below(child)]]


class _Stat(NamedTuple):
    name: str = ""
    parent: int = 0
    began: str = ""


def _stat(process: int) -> _Stat:
    """A process's name, parent and start time from /proc; empty if the process is gone."""
    try:
        name, rest = Path(f"/proc/{process}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except (OSError, IndexError):
        return _Stat()
    fields = rest.split()  # from the third field on
    return _Stat(name, int(fields[1]), fields[19])


def _kill(processes: list[int]) -> None:
    for process in processes:
        with suppress(OSError):  # it may have ended by itself
            os.kill(process, signal.SIGKILL)
