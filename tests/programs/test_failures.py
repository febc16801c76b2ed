"""No way to fail hangs: the whole job ends within seconds, and a line names the rank, the host and the cause."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import DEMO, REPOSITORY, run_module
from processes import HOST, finish, ranks_of, start

from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab

RANKS = 3


@pytest.fixture
def slabs(demo_slabs, tmp_path):
    """A directory of slabs that the test may spoil."""
    return shutil.copytree(demo_slabs(RANKS), tmp_path / "slabs")


@pytest.fixture
def prompts(tmp_path) -> Path:
    """Work for a minute or so."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}"}) + "\n" for i in range(2000)))
    return path


def spoil_block(slabs: Path) -> None:
    path = slab_path(slabs, 1)
    extent = read_slab(path).blocks["layers.2.feed_forward"]
    with open(path, "r+b") as file:
        file.seek(extent.offset + extent.nbytes // 2)
        file.write(bytes(64))


def truncate(slabs: Path) -> None:
    os.truncate(slab_path(slabs, 2), 500_000)


def swap(slabs: Path) -> None:
    shutil.copy(slab_path(slabs, 0), slab_path(slabs, 1))


def mix(slabs: Path) -> None:
    """Puts in a slab of another split of the same checkpoint, for as many ranks."""
    other = slabs.with_name("other")
    run_module("weights_tools.split", DEMO, other, "--ranks", RANKS, "--ratios", "2,1,1", check=True)
    shutil.copy(slab_path(other, 2), slab_path(slabs, 2))


def remove(slabs: Path) -> None:
    slab_path(slabs, 2).unlink()


SPOILT = {
    "missing": (remove, 2, "rank 2 on {host}: slab {slabs}/rank0002.h5 does not exist"),
    "truncated": (truncate, 2, "rank 2 on {host}: slab {slabs}/rank0002.h5 is truncated"),
    "swapped": (swap, 2, "rank 1 on {host}: slab {slabs}/rank0001.h5 was split for rank 0 of 3, not for rank 1 of 3"),
    "mixed": (mix, 2, "rank 2 on {host}: slab {slabs}/rank0002.h5 has a different partition from rank 0's"),
    "altered": (spoil_block, 1, "rank 1 on {host}: block layers.2.feed_forward of slab {slabs}/rank0001.h5"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_bad_slab_ends_the_job_with_its_name(fault, slabs):
    spoil, status, line = SPOILT[fault]
    spoil(slabs)
    process = start("-m", "tpi_mpi.generate", slabs, "--prompt", "Hi", "--max-new-tokens", 3)
    returned, said = finish(process, slabs)
    assert returned == status
    assert f"tpi_mpi: {line.format(host=HOST, slabs=slabs)}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("kind", "rank", "line"),
    [
        ("memory", 1, "rank 1 on {host}: out of memory"),
        ("memory", 0, "rank 0 on {host}: out of memory"),
        ("bug", 2, "rank 2 on {host}: KeyError"),
        ("disk", 1, "of slab {slabs}/rank0001.h5 cannot be read: Input/output error"),
        ("kill", 2, "rank 2 with PID"),
    ],
)
def test_trouble_on_one_rank_ends_all(kind, rank, line, slabs, prompts):
    arguments = [slabs, "--prompts", prompts, "--window", 2, "--output", slabs / "out.jsonl"]
    process = start("tests/sabotage.py", kind, rank, *arguments)
    returned, said = finish(process, slabs)
    assert returned != 0
    assert line.format(host=HOST, slabs=slabs) in said
    assert kind == "kill" or f"tpi_mpi: rank {rank} on {HOST}: " in said


@pytest.mark.parametrize(
    ("kind", "rank", "line"),
    [
        ("freeze", 1, "rank 1 on {host} has given no sign of life for 2 s; when last heard from, it was "),
        ("freeze", 0, "rank 0 on {host} has given no sign of life for 2 s; when last heard from, it was "),
        ("hang", 2, "of slab {slabs}/rank0002.h5 has moved to or from the disk for 2 s; check that it still works"),
    ],
)
def test_what_never_comes_ends_all_in_time(kind, rank, line, slabs, prompts):
    arguments = [slabs, "--prompts", prompts, "--window", 2, "--output", slabs / "out.jsonl", "--timeout", 3]
    process = start("tests/sabotage.py", kind, rank, *arguments)
    returned, said = finish(process, slabs)
    assert returned != 0
    assert line.format(host=HOST, slabs=slabs) in said


@pytest.mark.parametrize("ranks", [RANKS, 1])
def test_a_disk_that_hangs_from_the_start_ends_all_in_time(ranks, demo_slabs, tmp_path):
    slabs = shutil.copytree(demo_slabs(ranks), tmp_path / "slabs")
    arguments = [slabs, "--prompt", "Hi", "--memory", "2GiB", "--timeout", 3]
    process = start("tests/sabotage.py", "hang-early", ranks - 1, *arguments, ranks=ranks)
    returned, said = finish(process, slabs)
    assert returned != 0
    assert f"no data of slab {slabs}/rank{ranks - 1:04d}.h5 has moved to or from the disk for 2 s" in said


def test_who_was_asleep_blames_no_one(slabs, prompts):
    command = [slabs, "--prompts", prompts, "--output", slabs / "out.jsonl", "--timeout", 3]
    process = start("-m", "tpi_mpi.generate", *command)
    wait_until_answered(process, slabs / "out.jsonl")
    asleep = [process.pid, *ranks_of(slabs).values()]
    for sign in (signal.SIGSTOP, signal.SIGCONT):
        for one in asleep:
            os.kill(one, sign)
        time.sleep(4)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    finish(process, slabs)


def wait_until_answered(process: subprocess.Popen, output: Path) -> None:
    deadline = time.monotonic() + 60
    while not (output.exists() and output.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_rank_ends_the_job_and_loses_no_record(rank, slabs, prompts, tmp_path):
    output = tmp_path / "out.jsonl"
    process = start("-m", "tpi_mpi.generate", slabs, "--prompts", prompts, "--output", output)
    wait_until_answered(process, output)
    os.kill(ranks_of(slabs)[rank], signal.SIGKILL)
    returned, said = finish(process, slabs)
    assert returned != 0
    assert f"rank {rank} with PID" in said
    assert f"on node {HOST} exited on" in " ".join(said.split())
    complete = output.read_text().rpartition("\n")[0].splitlines()
    ids = [json.loads(line)["id"] for line in complete]
    assert len(ids) == len(set(ids)) >= 2
    assert set(ids) <= set(range(1, 2001))


def test_a_batch_that_is_killed_six_times_ends_as_if_it_had_not_been(demo_slabs, tmp_path):
    """Any rank, at any moment: from before MPI has started until the last records are written."""
    slabs = shutil.copytree(demo_slabs(2), tmp_path / "slabs")
    prompts, output, undisturbed = (tmp_path / name for name in ("prompts.jsonl", "out.jsonl", "undisturbed.jsonl"))
    lines = [{"prompt": f"What is {i}?", "temperature": 0.8 * (i % 2), "seed": i} for i in range(400)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = ["-m", "tpi_mpi.generate", slabs, "--prompts", prompts, "--max-new-tokens", 40, "--output"]
    draw, began = random.Random(7), time.monotonic()
    finish(start(*batch, undisturbed, ranks=2), slabs)
    whole = time.monotonic() - began
    for _ in range(6):
        process = start(*batch, output, ranks=2)
        time.sleep(draw.uniform(0.2, 0.8) * whole)
        for rank in draw.sample([0, 1], 1):
            if found := ranks_of(slabs).get(rank):
                os.kill(found, signal.SIGKILL)
        finish(process, slabs)
    finish(start(*batch, output, ranks=2), slabs)
    assert sorted(answers(output)) == sorted(answers(undisturbed))


def answers(output: Path) -> list[str]:
    """The records without what depends on company: how much of a prompt was there already."""
    return [json.dumps(json.loads(line) | {"cached_tokens": 0}) for line in output.read_text().splitlines()]


def test_ctrl_c_ends_the_job_cleanly(slabs, prompts, tmp_path):
    output = tmp_path / "out.jsonl"
    process = start("-m", "tpi_mpi.generate", slabs, "--prompts", prompts, "--output", output, start_new_session=True)
    wait_until_answered(process, output)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    returned, said = finish(process, slabs)
    assert returned != 0
    assert "Traceback" not in said


def test_ctrl_c_without_mpirun(demo_slabs, prompts):
    command = [sys.executable, "-m", "tpi_mpi.generate", str(demo_slabs(1)), "--prompts", str(prompts)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=REPOSITORY, **pipes)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    returned, said = finish(process, demo_slabs(1))
    assert returned == 130
    assert said.splitlines()[-1] == "tpi_mpi: interrupted"
    assert "Traceback" not in said


PROGRAM = """
from mpi4py import MPI
import tpi_mpi

with tpi_mpi.Model.open({slabs!r}, comm=MPI.COMM_WORLD, timeout=20) as model:
    if MPI.COMM_WORLD.rank == {rank}:
        raise ValueError("of the caller's own")
    for completion in model.generate(["a"] * 1000):
        pass
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_in_a_program_of_ones_own_ends_all_ranks(rank, demo_slabs, tmp_path):
    slabs = demo_slabs(2)
    (tmp_path / "program.py").write_text(PROGRAM.format(slabs=str(slabs), rank=rank))
    returned, said = finish(start(tmp_path / "program.py", ranks=2), slabs)
    assert returned != 0
    assert f"rank {rank} on {HOST}: ValueError: of the caller's own" in said
