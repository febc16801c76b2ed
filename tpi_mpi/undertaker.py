"""The end of a job that MPI cannot end: its launcher waits for a machine that will not answer any more."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

# What Open MPI, MPICH and their relatives start ranks with.
_LAUNCHERS = {
    *("mpirun", "mpiexec", "prterun", "prted", "orterun", "orted"),
    *("mpiexec.hydra", "hydra_pmi_proxy", "mpiexec.gforker"),
}


def bury_after(seconds: float) -> None:
    """Leaves a process behind that kills this one, its launcher here and all that this has started, unless they end.

    Only where the launcher is an ancestor of this process; other batch systems end what they have started themselves.
    """
    rank, launcher = os.getpid(), _launcher()
    if os.fork():
        return
    try:
        os.setsid()  # out of the group that the launcher ends
        time.sleep(seconds)
        lost = [launcher, *_below(launcher)] if launcher else []  # the launcher first, or it would complain
        for process in [*lost, rank]:
            if process != os.getpid():
                _kill(process)
    finally:
        os._exit(0)


def _launcher() -> int | None:
    """The nearest ancestor that is a launcher, where the system shows its processes as files."""
    process = os.getppid()
    while process > 1:
        name, parent = _stat(process)
        if name in _LAUNCHERS:
            return process
        process = parent
    return None


def _below(process: int) -> list[int]:
    """All descendants of a process."""
    children = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _stat(int(path.name))[1] == process]
    return [descendant for child in children for descendant in [child, *_below(child)]]


def _stat(process: int) -> tuple[str, int]:
    """Name and parent; nothing of what is gone."""
    try:
        name, rest = Path(f"/proc/{process}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except (OSError, IndexError):
        return "", 0
    return name, int(rest.split()[1])


def _kill(process: int) -> None:
    with suppress(OSError):  # it may have ended, as it should
        os.kill(process, signal.SIGKILL)
