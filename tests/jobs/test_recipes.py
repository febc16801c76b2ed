"""The recipes for several machines and for PBS; this machine pretends to be the others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import machines
import pytest
from conftest import REPOSITORY, mpirun, run_module

JOBS = REPOSITORY / "jobs"
RECIPES = [path for pattern in ("*.sh", "*.slurm", "*.pbs") for path in sorted(JOBS.rglob(pattern))]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(JOBS)))
def test_recipes_are_valid_shell(recipe):
    shell = recipe.read_text().splitlines()[0].removeprefix("#!")
    finished = subprocess.run([shell, "-n", str(recipe)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


class Neighbourhood:
    """This machine, and where it can pretend to be another, node2, which has its own disk at ``place``."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.hosts = ["localhost", "node2"] if machines.can_be_several() else ["localhost"]
        self.place = directory / "the disk"
        self.disks = [self.place, directory / "disks" / "node2"][: len(self.hosts)]
        for disk in self.disks:
            disk.mkdir(parents=True)

    def slabs(self) -> list[list[str]]:
        """Names of the slabs on each machine's disk."""
        return [sorted(path.name for path in disk.rglob("rank*.h5")) for disk in self.disks]

    def written(self) -> list[int]:
        """When each slab was."""
        return [path.stat().st_mtime_ns for disk in self.disks for path in sorted(disk.rglob("rank*.h5"))]

    def run(self, *command: str | Path, **variables: str | Path) -> subprocess.CompletedProcess:
        """Runs a recipe, with variables of the environment."""
        launcher = machines.write_launcher(self.directory / "launcher", self.directory / "disks", self.place)
        variables |= {"PYTHON": sys.executable, "MPIRUN": mpirun(1)[0], "PRTE_MCA_plm_ssh_agent": launcher}
        settings = {**os.environ, **machines.AS_ROOT, **{name: str(value) for name, value in variables.items()}}
        command = [str(word) for word in command]
        return subprocess.run(command, env=settings, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


@pytest.fixture
def neighbourhood(tmp_path) -> Neighbourhood:
    return Neighbourhood(tmp_path)


def test_several_machines(neighbourhood, demo_slabs):
    """Each gets its own slab, once, and the answer is that of one machine."""
    ranks = len(neighbourhood.hosts)
    hostfile = neighbourhood.directory / "the hosts"
    hostfile.write_text("# first this one\n\n" + "".join(f"{host} slots=1\n" for host in neighbourhood.hosts))
    question = ("--chat", "--prompt", "What is a slab?", "--max-new-tokens", "20", "--threads", "1")
    recipe = (JOBS / "cluster" / "run.sh", hostfile, demo_slabs(ranks), *question)
    settings = {"COPIES": neighbourhood.place / "copies", "NETWORK": machines.NETWORK}

    answers = []
    for _ in range(2):
        finished = neighbourhood.run(*recipe, **settings)
        assert finished.returncode == 0, finished.stderr
        assert neighbourhood.slabs() == [[f"rank{rank:04d}.h5"] for rank in range(ranks)]
        answers.append((finished.stdout, neighbourhood.written()))
    plain = run_module("tpi_mpi.generate", demo_slabs(ranks), *question, ranks=ranks, check=True)
    assert answers[0] == answers[1]
    assert answers[0][0] == plain.stdout


def test_pbs(neighbourhood, demo_slabs):
    """As PBS starts it for two ranks on each node: with these variables, and the slabs on a filesystem that all see."""
    each, hosts = 2, neighbourhood.hosts
    ranks = each * len(hosts)
    directory = neighbourhood.directory
    (directory / "nodes").write_text("".join(f"{host}\n" * each for host in hosts))
    (directory / "the prompts.jsonl").write_text('{"id": "a", "prompt": "What is a slab?"}\n')
    job = {
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "PBS_JOBID": "12.server",
        "PBS_O_WORKDIR": REPOSITORY,
        "PBS_NODEFILE": directory / "nodes",
        "NCPUS": each,
        "TMPDIR": neighbourhood.place,
    }
    settings = {
        "SLABS": demo_slabs(ranks),
        "PROMPTS": directory / "the prompts.jsonl",
        "ANSWERS": directory / "the answers.jsonl",
        "REPORT": directory / "report.json",
        "OPTIONS": "--chat --max-new-tokens 12",
        "MEMORY": "700MiB",
        "OMPI_MCA_btl_tcp_if_include": machines.NETWORK,
    }
    finished = neighbourhood.run("bash", JOBS / "generate.pbs", **job, **settings)
    assert finished.returncode == 0, finished.stderr
    assert neighbourhood.slabs() == [
        [f"rank{first + rank:04d}.h5" for rank in range(each)] for first in range(0, ranks, each)
    ]
    (answer,) = map(json.loads, (directory / "the answers.jsonl").read_text().splitlines())
    assert len(answer["token_ids"]) == 12
    report = json.loads((directory / "report.json").read_text())
    assert [rank["threads"] for rank in report["ranks"]] == [1] * ranks
    assert [rank["budget_bytes"] for rank in report["ranks"]] == [700 << 20] * ranks

    finished = neighbourhood.run("bash", JOBS / "generate.pbs", **job, **settings, KEEP="")
    assert finished.returncode == 0, finished.stderr
    assert "1 of 1 prompts are already in the output file" in finished.stderr
    assert neighbourhood.slabs() == [[] for _ in hosts]
