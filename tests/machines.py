"""One machine that pretends to be several, as far as a program that is started on each can see: its name, its disk.

They share cores, memory and network, so MPI connects them by ``lo``.
"""

import os
import shutil
import subprocess
from pathlib import Path
from shlex import join, quote

NETWORK = "lo"
# What Open MPI wants where root, who alone may pretend, starts it.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
# Its arguments: the machine's name, the directory that is its disk, where it sees that, a command.
_PRETEND = ["unshare", "--uts", "--mount", "sh", "-c"]
_PRETEND += ['hostname "$0" && mount --bind "$1" "$2" && shift 2 && exec "$@"']


def can_be_several() -> bool:
    """Whether this process may make namespaces, in which a machine has another name and other mounts."""
    if os.getuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "--uts", "--mount", "true"], capture_output=True).returncode == 0


def as_machine(name: str, disk: Path, place: Path) -> list[str]:
    """What makes the command after it run on a machine of this name, which sees a disk of its own at ``place``."""
    return [*_PRETEND, name, str(disk), str(place)]


def write_launcher(path: Path, disks: Path, place: Path) -> Path:
    """Writes what mpirun calls instead of ssh; returns its path.

    ``PATH NAME COMMAND...`` runs a command on the machine of that name, whose disk is ``disks``/NAME.
    """
    command = f'{join(_PRETEND)} "$name" {quote(str(disks))}/"$name" {quote(str(place))} sh -c "$*"'
    path.write_text(f"#!/bin/sh\nname=$1\nshift\nexec {command}\n")
    path.chmod(0o755)
    return path
