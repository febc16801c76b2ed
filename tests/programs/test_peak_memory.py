"""A memory budget holds: read from the operating system, in a process and in a cgroup of that size."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment, run_module

from tpi_mpi.common.units import MIB
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab

CGROUPS = Path("/sys/fs/cgroup/memory")
PROMPT = ["--prompt", "a " * 300, "--max-new-tokens", 4]


@pytest.fixture(scope="module")
def slabs(tmp_path_factory):
    """Eight layers of 88 MB, so that what the window holds shows."""
    directory = tmp_path_factory.mktemp("slabs") / "slabs"
    shape = ["--like", "tinyllama-1.1b", "--layers", 8, "--unique-layers", 2, "--ranks", 1]
    run_module("weights_tools.synth", directory, *shape, check=True)
    return directory


@pytest.fixture(scope="module")
def least(slabs) -> int:
    """The smallest budget that works, as the program says."""
    finished = run_module("tpi_mpi.generate", slabs, *PROMPT, "--memory", "1MiB")
    assert finished.returncode == 2
    return int(re.search(r"give at least ([0-9]+)MiB", finished.stderr)[1]) * MIB


@pytest.fixture(scope="module")
def unbounded(slabs, tmp_path_factory) -> dict:
    return measured(slabs, tmp_path_factory.mktemp("unbounded") / "r.json")


def measured(slabs, report: Path, *arguments, launcher=()) -> dict:
    command = [sys.executable, "-m", "tpi_mpi.generate", slabs, *PROMPT, *arguments, "--report", report]
    subprocess.run([*launcher, *map(str, command)], cwd=REPOSITORY, env=environment(), check=True, timeout=120)
    return json.loads(report.read_text())["ranks"][0]


@pytest.mark.parametrize("more", [0, 150, 400])
def test_the_peak_stays_under_the_budget_and_near_it(slabs, least, unbounded, more, tmp_path):
    budget = least + more * MIB
    rank = measured(slabs, tmp_path / "r.json", "--memory", budget)
    assert rank["peak_rss_bytes"] <= budget
    assert rank["peak_rss_bytes"] > budget - 130 * MIB  # there may be no room for one more block of 69 MB
    assert rank["bytes_fetched"] > unbounded["bytes_fetched"]
    assert rank["budget_bytes"] == budget


def test_without_a_budget_nothing_is_fetched_twice(slabs, unbounded):
    sweep = read_slab(slab_path(slabs, 0)).sweep
    assert unbounded["bytes_fetched"] == sum(block.nbytes for block in sweep.values())
    assert unbounded["pinned_blocks"] == 8 * 2 + 2
    assert unbounded["window_bytes"] == 0


@pytest.fixture
def cgroup():
    """A memory cgroup of the test's own."""
    directory = CGROUPS / f"tpi_mpi-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError:
        pytest.skip("this machine lets the test make no memory cgroup")
    yield directory
    directory.rmdir()


@pytest.mark.parametrize("more", [0, 200])
def test_the_budget_holds_in_a_cgroup_of_that_size(slabs, least, more, cgroup, tmp_path):
    """Where page cache counts too. Nothing is killed, and the limit is hardly ever met."""
    budget = least + more * MIB
    (cgroup / "memory.limit_in_bytes").write_text(str(budget))
    launcher = ["sh", "-c", f'echo $$ > {cgroup}/tasks; exec "$@"', "sh"]
    rank = measured(slabs, tmp_path / "r.json", "--memory", budget, launcher=launcher)
    assert rank["peak_rss_bytes"] <= budget
    assert int((cgroup / "memory.failcnt").read_text()) < 100


def test_in_a_cgroup_the_default_is_what_it_has_left(slabs, least, cgroup, tmp_path):
    limit = least + 200 * MIB
    (cgroup / "memory.limit_in_bytes").write_text(str(limit))
    launcher = ["sh", "-c", f'echo $$ > {cgroup}/tasks; exec "$@"', "sh"]
    rank = measured(slabs, tmp_path / "r.json", launcher=launcher)
    assert limit * 0.7 < rank["budget_bytes"] <= limit
    assert rank["peak_rss_bytes"] <= rank["budget_bytes"]
