"""A launcher that does not end, and what it has started, are ended."""

import os
import subprocess
import sys
import time

import pytest
from conftest import REPOSITORY

RANK = """
import time
from tpi_mpi.comm.abort import kill_after
kill_after(0.5)
print('buried', flush=True)
time.sleep({})
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are found by /proc")
@pytest.mark.parametrize("name", ["mpirun", "bash"])
def test_a_launcher_and_its_processes_end_with_the_rank(name, tmp_path):
    launcher = tmp_path / name
    launcher.write_text(
        f'#!/bin/bash\nsleep 61.5 & echo $!\n"{sys.executable}" -c "{RANK.format(60)}" & echo $!\nwait\n'
    )
    launcher.chmod(0o755)
    process = subprocess.Popen([launcher], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    other, rank = int(process.stdout.readline()), int(process.stdout.readline())
    assert process.stdout.readline() == "buried\n"
    deadline = time.monotonic() + 20
    while alive(rank) or (name == "mpirun" and (process.poll() is None or alive(other))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if name != "mpirun":  # no launcher of ranks: it is left alone
        assert alive(other)
        os.kill(other, 9)
    process.wait(timeout=20)


def test_who_ends_by_himself_is_not_missed():
    finished = subprocess.run([sys.executable, "-c", RANK.format(0)], cwd=REPOSITORY, timeout=30)
    time.sleep(1)
    assert finished.returncode == 0


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
