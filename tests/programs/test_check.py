"""The check of all machines: a healthy cluster passes, and whatever is wrong is named with its rank and host."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import DEMO, REPOSITORY, environment, mpirun, run_module

from tpi_mpi.model.config import ModelConfig
from tpi_mpi.preflight.diagnosis import notes, problems
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.splitting.ratios import CheckReport, choose

RANKS = 4


def check(faults: str, *arguments, ranks: int = RANKS) -> subprocess.CompletedProcess:
    command = [*mpirun(ranks), sys.executable, "tests/unlike.py", faults, *map(str, arguments)]
    environ = {**environment(), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def healthy(demo_slabs, tmp_path_factory):
    report = tmp_path_factory.mktemp("check") / "check.json"
    return check("none", demo_slabs(3), "--prompt-tokens", 40, "--report", report, ranks=3), report


def test_a_healthy_cluster_passes_with_a_whole_report(healthy):
    finished, path = healthy
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert json.loads(path.read_text()) == report
    assert (report["world_size"], report["model"], report["problems"], report["notes"]) == (3, "handbook-3m", [], [])
    assert set(report["allreduce_s"]) == {"1", "40"}
    assert report["expected"]["tpot_s"] > 0
    for number, rank in enumerate(report["ranks"]):
        assert rank["rank"] == number
        assert rank["slab"]["state"] == "good"
        assert set(rank["versions"]) == {"tpi_mpi", "python", "numpy", "numba", "mpi4py", "MPI"}
        rates = rank["rates"]
        assert set(rates["products"]) == {"bfloat16", "int8 by 32", "int4 by 32"}
        products = [rate for own in rates["products"].values() for rate in own.values()]
        assert min(rates["read"], rates["memory"], *products) > 0
        assert min(rank[f"{name}_bytes"] for name in ("free", "budget", "taken", "shard")) > 0
        assert (rank["link"] is None) == (number == 0)
        assert not number or min(rank["link"].values()) > 0


def test_the_table_has_a_line_for_every_rank(healthy):
    lines = healthy[0].stderr.splitlines()
    assert lines[0] == "handbook-3m, bfloat16, 3 ranks, allreduce star"
    assert [line.split()[0] for line in lines[1:5]] == ["rank", "0", "1", "2"]
    assert lines[-1].startswith("expected: ")


def test_split_can_take_its_ratios_from_the_report(healthy, demo):
    config = ModelConfig.load(demo / "config.json")
    report = CheckReport(healthy[1], config, 3)
    for dtype in ("bfloat16", "int4"):  # whatever the slabs that were there
        assert choose(config, StoredFormats.like(config, dtype), report.machines, report.work).expected.tpot > 0


@pytest.fixture(scope="module")
def unlike(demo_slabs, tmp_path_factory):
    """Four machines, three with a slab that is no good, and each with some other fault."""
    slabs = shutil.copytree(demo_slabs(RANKS), tmp_path_factory.mktemp("unlike") / "slabs")
    other = slabs.with_name("other")
    run_module("weights_tools.split", DEMO, other, "--ranks", RANKS, "--ratios", "2,1,1,1", check=True)
    slab_path(slabs, 1).unlink()
    shutil.copy(slab_path(other, 2), slab_path(slabs, 2))
    os.truncate(slab_path(slabs, 3), 400_000)
    return check("version:1,memory:1,late:2,disk:3", slabs), slabs


FAULTS = [
    "rank 1 on host1: slab {slabs}/rank0001.h5 does not exist; split the checkpoint, or copy this rank's slab here",
    "rank 1 on host1: numpy is 1.26.4, rank 0's is ",
    "rank 1 on host1: a memory budget of 300.00 MiB is too small; give at least ",
    "rank 2 on host2: slab {slabs}/rank0002.h5 has a different partition from rank 0's; copy the slab of the same ",
    "rank 2 on host2: a message to rank 0 takes ",
    "rank 3 on host3: slab {slabs}/rank0003.h5 is truncated",
    "rank 3 on host3: its disk reads ",
]


@pytest.mark.parametrize("sentence", FAULTS)
def test_every_fault_is_named_with_its_rank_and_host(sentence, unlike):
    finished, slabs = unlike
    assert finished.returncode == 1, finished.stderr
    assert f"tpi_mpi: {sentence.format(slabs=slabs)}" in finished.stderr


def test_nobody_else_is_accused_and_the_table_still_comes(unlike):
    report = json.loads(unlike[0].stdout)
    assert {problem["rank"] for problem in report["problems"]} == {1, 2, 3}
    assert [rank["slab"]["state"] for rank in report["ranks"]] == ["good", "missing", "other", "bad"]
    assert all(rank["rates"]["read"] > 0 for rank in report["ranks"])
    assert report["expected"] is None


def test_nothing_is_left_of_the_scratch_files(unlike):
    assert not list(unlike[1].parent.rglob(".*"))


def test_a_checkpoint_that_is_not_split_yet_can_be_checked(demo, tmp_path):
    finished = check("none", demo, "--memory", "2GiB", ranks=1)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert [rank["slab"]["state"] for rank in report["ranks"]] == ["none yet"]
    assert [rank["budget_bytes"] for rank in report["ranks"]] == [2 * 1024**3]
    assert not list(demo.glob(".*"))


def test_a_model_with_experts_is_told_how_many_stay(tmp_path):
    finished = check("none", DEMO.with_name("handbook-moe"), "--prompt-tokens", 40, "--memory", "2GiB", ranks=2)
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    for rank in report["ranks"]:
        experts = rank["experts"]
        assert (experts["kept"], experts["assumed_hit_rate"]) == (experts["all"], 1.0)
        assert f"rank {rank['rank']}: memory for {experts['all']} of {experts['all']} experts of " in finished.stderr
    assert report["expected"]["tpot_s"] > 0
    path, config = tmp_path / "check.json", ModelConfig.load(DEMO.with_name("handbook-moe") / "config.json")
    path.write_text(json.dumps(report))
    again = CheckReport(path, config, 2)
    assert choose(config, StoredFormats.like(config, "int4"), again.machines, again.work).expected.tpot > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "slab directory nowhere does not exist"),
        ([DEMO, "--prompt-tokens", "513"], "--prompt-tokens is 513; the model's context is 512"),
        ([DEMO, "--report", "/nowhere/r.json"], "/nowhere/r.json cannot be written"),
        ([DEMO, "--new-tokens", "0"], "--new-tokens is 0; at least 1"),
    ],
)
def test_the_users_mistakes_are_named(arguments, words):
    finished = run_module("tpi_mpi.check", *arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert words in finished.stderr


def test_a_key_may_be_ignored_before_the_split_too(demo, tmp_path):
    checkpoint = shutil.copytree(demo, tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "tuned_by": "me"}))
    refused = check("none", checkpoint, "--memory", "2GiB", ranks=1)
    assert (refused.returncode, "--ignore-key tuned_by" in refused.stderr) == (2, True)
    finished = check("none", checkpoint, "--memory", "2GiB", "--ignore-key", "tuned_by", ranks=1)
    assert finished.returncode == 0, finished.stderr


def rank(number: int, **changes) -> dict:
    """One rank's report, as far as findings look at it."""
    return {
        "rank": number,
        "host": f"host{number}",
        "versions": {"python": "3.11.7", "numpy": "2.4.6", "numba": "0.68.1"},
        "rates": {"read": 1e9},
        "link": {"latency_s": 1e-3, "bandwidth": 1e8} if number else None,
        "confined": False,
        "problems": [],
        **changes,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"versions": {"python": "3.11.9", "numpy": "2.4.2", "numba": "0.68.0"}},
        {"link": {"latency_s": 2.9e-3, "bandwidth": 4e7}},
        {"rates": {"read": 4e8}},
        {"host": "host0", "link": {"latency_s": 1e-2, "bandwidth": 1e6}},
        {"rates": {"read": None}},
    ],
)
def test_small_differences_are_no_faults(change):
    assert problems([rank(0), rank(1), rank(2, **change), rank(3)]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"versions": {"python": "3.12.1", "numpy": "2.4.6", "numba": "0.68.1"}},
            "python is 3.12.1, rank 0's is 3.11.7",
        ),
        (
            {"versions": {"python": "3.11.7", "numpy": "2.4.6", "numba": "missing"}},
            "numba is missing, rank 0's is 0.68.1",
        ),
        ({"link": {"latency_s": 3.1e-3, "bandwidth": 1e8}}, "a message to rank 0 takes 3.1 ms, the others' 1.0 ms"),
        ({"link": {"latency_s": 1e-3, "bandwidth": 3e7}}, "its link to rank 0 carries 30.0 MB/s, the others' 100.0"),
        ({"rates": {"read": 1e8}}, "its disk reads 95 MiB/s, the others' 954 MiB/s"),
    ],
)
def test_large_ones_are(change, words):
    (problem,) = problems([rank(0), rank(1), rank(2, **change), rank(3)])
    assert (problem["rank"], problem["host"]) == (2, "host2")
    assert problem["message"].startswith(words)


def test_what_only_costs_time_is_noted():
    ranks = [rank(0), rank(1, host="host0", confined=True), rank(2)]
    assert problems(ranks) == []
    shared, confined = notes(ranks)
    assert shared.startswith("ranks 0, 1 are all on host0")
    assert confined.startswith("mpirun binds rank 1 on host0")
    assert notes([rank(number, host="one") for number in range(3)]) == []
