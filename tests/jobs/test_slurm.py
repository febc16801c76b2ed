"""The recipes for Slurm, submitted to a Slurm."""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import machines
import openai
import pytest
from conftest import REPOSITORY, mpirun, run_module
from slurm import Slurm, SlurmJob, await_that, why_not

SPLIT, GENERATE, SERVE = (str(REPOSITORY / "jobs" / f"{name}.slurm") for name in ("split", "generate", "serve"))
# One after another, so that a job takes some seconds.
ANSWER_TOKENS = ("--max-new-tokens", "60", "--batch", "1")
WORDS = "slab window block rank sweep allreduce prefill report budget checkpoint partition token cache stall".split()
QUESTIONS = [f"{word} of {count}" for count in range(6) for word in WORDS]


@pytest.fixture(scope="module")
def slurm():
    if reason := why_not():
        (pytest.fail if os.environ.get("TPI_MPI_NEED_SLURM") else pytest.skip)(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-") as directory, Slurm(Path(directory)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def slabs(slurm, demo, tmp_path_factory) -> Path:
    """Slabs for two ranks, split by a job."""
    path = tmp_path_factory.mktemp("slurm") / "the slabs"
    job = slurm.submit(SPLIT, CHECKPOINT=str(demo), SLABS=str(path), RANKS="2", PYTHON=sys.executable)
    assert job.ended() == "COMPLETED", job
    return path


@pytest.fixture
def variables(slurm, slabs, tmp_path) -> dict[str, str]:
    """The environment that recipes are submitted with, for files in a directory of the test's own."""
    prompts = tmp_path / "the prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": word, "prompt": f"What is a {word}?"}) + "\n" for word in QUESTIONS))
    return {
        "PYTHON": sys.executable,
        "MPIRUN": mpirun(1)[0],
        "SLABS": str(slabs),
        "PROMPTS": str(prompts),
        "ANSWERS": str(tmp_path / "the answers.jsonl"),
        "REPORT": str(tmp_path / "the report.json"),
        "KEYS": str(tmp_path / "the keys"),
        "SCRATCH": str(slurm.scratch),
        "OMPI_MCA_btl_tcp_if_include": machines.NETWORK,
    }


def submit(slurm: Slurm, variables: dict[str, str], *arguments: str, nodes: int) -> SlurmJob:
    """Submits a recipe with two ranks, on ``nodes`` nodes."""
    size = [f"--nodes={nodes}", f"--ntasks-per-node={2 // nodes}", "--cpus-per-task=1", f"--mem={1800 // nodes}M"]
    return slurm.submit(*size, *arguments, **variables)


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def answers(path: str) -> list[dict]:
    """The records by id, without what depends on restarts and company: how much of a prompt was there already."""
    return sorted((json.loads(line) | {"cached_tokens": 0} for line in lines(path)), key=lambda record: record["id"])


def copies(slurm: Slurm) -> dict[str, int]:
    """The slabs on the nodes' disks, and when each was written."""
    paths = [path for node in slurm.nodes for path in slurm.disk(node).glob("*/rank*.h5")]
    return {f"{path.name} on {path.parts[-3]}": path.stat().st_mtime_ns for path in paths}


def test_whole_slabs_are_not_split_again(slurm, slabs, demo):
    before = {path.name: path.stat().st_mtime_ns for path in slabs.iterdir()}
    job = slurm.submit(SPLIT, CHECKPOINT=str(demo), SLABS=str(slabs), RANKS="2", PYTHON=sys.executable)
    assert job.ended() == "COMPLETED"
    assert "holds whole slabs already" in str(job)
    assert {path.name: path.stat().st_mtime_ns for path in slabs.iterdir()} == before


def test_a_job_that_is_put_back_resumes(slurm, slabs, variables, tmp_path):
    """Put back by the cluster's operator; then by itself, as when its time is nearly up."""
    job = submit(slurm, {**variables, "KEEP": ""}, GENERATE, *ANSWER_TOKENS, nodes=len(slurm.nodes))
    await_that(lambda: len(lines(variables["ANSWERS"])) >= 2, 60, job)
    slurm.call("scontrol", "requeue", job.number)
    copied = copies(slurm)
    assert len(copied) == 2
    done = len(lines(variables["ANSWERS"]))
    await_that(lambda: job.shown("Restarts") == "1", 60, job)
    await_that(lambda: len(lines(variables["ANSWERS"])) >= done + 2, 60, job)
    slurm.call("scancel", "--batch", "--signal=USR1", job.number)
    assert copies(slurm) == copied
    assert len(lines(variables["ANSWERS"])) < len(QUESTIONS)
    assert job.ended() == "COMPLETED", job
    assert job.shown("Restarts") == "2"
    assert not copies(slurm)

    plain = str(tmp_path / "plain.jsonl")
    arguments = ("--prompts", variables["PROMPTS"], "--output", plain, *ANSWER_TOKENS[:2], "--threads", "1")
    run_module("tpi_mpi.generate", slabs, *arguments, ranks=2, check=True)
    assert answers(variables["ANSWERS"]) == answers(plain)
    report = json.loads(Path(variables["REPORT"]).read_text())
    assert {rank["host"] for rank in report["ranks"]} == set(slurm.nodes)
    assert {rank["threads"] for rank in report["ranks"]} == {1}
    assert {rank["budget_bytes"] for rank in report["ranks"]} == {810 << 20}


def test_a_job_that_gets_nothing_done_is_not_put_back(slurm, variables, tmp_path):
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\nsleep 5\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    job = submit(slurm, {**variables, "PYTHON": str(slow)}, GENERATE, nodes=1)
    await_that(lambda: copies(slurm), 60, job)
    slurm.call("scancel", "--batch", "--signal=USR1", job.number)
    assert job.ended() == "FAILED", job
    assert "give it more with --time" in str(job)
    assert job.shown("Restarts") == "0"


@pytest.mark.parametrize("recipe", [GENERATE, SERVE], ids=["generate", "serve"])
def test_a_mistake_is_the_job_s_exit_status(slurm, variables, tmp_path, recipe):
    job = submit(slurm, {**variables, "SLABS": str(tmp_path / "none"), "SCRATCH": ""}, recipe, nodes=1)
    assert job.ended() == "FAILED", job
    assert "none does not exist" in str(job)
    assert job.shown("ExitCode") == "2:0"


def test_a_server_lets_its_key_in_and_finishes_what_is_under_way(slurm, variables):
    """Its address is used as ssh would use it on the node."""
    job = submit(slurm, {**variables, "KEEP": ""}, SERVE, nodes=len(slurm.nodes))
    await_that(lambda: "The API key is in" in str(job), 60, job)
    address = re.search(rf"ssh -N -L 8000:(127\.0\.0\.1:\d+) {slurm.nodes[0]}\n", str(job))[1]
    keys = Path(variables["KEYS"])
    assert keys.stat().st_mode & 0o777 == 0o600
    assert keys.read_text() not in str(job)

    with openai.OpenAI(base_url=f"http://{address}/v1", api_key="another", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        client.api_key = keys.read_text()
        (model,) = client.models.list()
        longest = {"max_tokens": 400, "temperature": 2, "seed": 1}
        events = client.completions.create(model=model.id, prompt="A slab", stream=True, **longest)
        next(events)
        slurm.call("scancel", "--batch", "--signal=TERM", job.number)
        *_, last = events
        assert last.choices[0].finish_reason
    assert job.ended() == "COMPLETED", job
    assert not copies(slurm)
