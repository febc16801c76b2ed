"""The end of a job that MPI cannot end: its launcher waits for a machine that will not answer any more."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# What Open MPI, MPICH and their relatives start ranks with.
_LAUNCHERS = {
    *("mpirun", "mpiexec", "prterun", "prted", "orterun", "orted"),
    *("mpiexec.hydra", "hydra_pmi_proxy", "mpiexec.gforker"),
}

# Seconds between two looks at whether they still are there.
_GLANCE = 0.05


def kill_after(seconds: float) -> None:
    """Leaves a process behind that kills this one, its launcher here and all that this has started, unless they end.

    Only where the launcher is an ancestor of this process; other batch systems end what they have started themselves.
    """
    doomed = [process for process in (_launcher(), os.getpid()) if process]  # the launcher first, or it would complain
    began = {process: _stat(process).began for process in doomed}
    if os.fork():
        return
    try:
        os.setsid()  # out of the group that the launcher ends
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(_stat(process).began == began[process] for process in doomed):
            time.sleep(_GLANCE)
        for process in doomed:
            if _stat(process).began == began[process]:  # not another one of that number
                _kill([process, *(child for child in _below(process) if child != os.getpid())])
    finally:
        os._exit(0)


def _launcher() -> int | None:
    """The nearest ancestor that is a launcher, where the system shows its processes as files."""
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
    """What the system says of a process; nothing of what is gone."""
    try:
        name, rest = Path(f"/proc/{process}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except (OSError, IndexError):
        return _Stat()
    fields = rest.split()  # from the third on
    return _Stat(name, int(fields[1]), fields[19])


def _kill(processes: list[int]) -> None:
    for process in processes:
        with suppress(OSError):  # it may have ended, as it should
            os.kill(process, signal.SIGKILL)
