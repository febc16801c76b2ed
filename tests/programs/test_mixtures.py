"""Mixtures of experts as users run them: nothing hangs, budgets hold, ranks of different CPUs choose alike."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, environment, mpirun, run_module
from processes import HOST, finish, start
from safetensors.numpy import load_file, save_file

from tpi_mpi.common.units import MIB
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab

RANKS = 3
CONFIG = {
    "model_type": "qwen3_moe",
    "vocab_size": 300,
    "hidden_size": 128,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 192,
    "norm_topk_prob": True,
    "max_position_embeddings": 512,
}
PROMPT = ["--prompt", "Experts of some kind", "--max-new-tokens", 40]


def synth(directory: Path, ranks: int, **changes) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    arguments = ["--config", directory / "config.json", "--ranks", ranks, "--dtype", "int4"]
    run_module("weights_tools.synth", directory / "slabs", *arguments, check=True)
    return directory / "slabs"


@pytest.fixture
def slabs(tmp_path) -> Path:
    return synth(tmp_path / "model", RANKS)


def test_an_altered_expert_is_named_when_it_is_first_read(slabs):
    path = slab_path(slabs, 1)
    with open(path, "r+b") as file:
        for extent in read_slab(path).experts[2].extents():
            file.seek(extent.offset + extent.nbytes // 2)
            file.write(bytes(64))
    returned, said = finish(start("-m", "tpi_mpi.generate", slabs, *PROMPT), slabs)
    assert returned == 1
    assert f"tpi_mpi: rank 1 on {HOST}: block layers.2.expert." in said
    assert "its bytes were altered; copy the slab again or split again" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("kind", "rank", "line"),
    [
        ("miss-kill", 2, "rank 2 with PID"),
        ("miss-disk", 1, "of slab {slabs}/rank0001.h5 cannot be read: Input/output error"),
        (
            "miss-hang",
            2,
            "of slab {slabs}/rank0002.h5 has moved to or from the disk for 2 s; check that it still works",
        ),
    ],
)
def test_trouble_with_a_missing_expert_ends_all(kind, rank, line, slabs):
    arguments = [slabs, *PROMPT, "--window", 1, "--timeout", 3]
    returned, said = finish(start("tests/sabotage.py", kind, rank, *arguments), slabs)
    assert returned != 0
    assert line.format(slabs=slabs) in said


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """Experts of 2.7 MB, 170 MB in all."""
    shape = {"hidden_size": 1024, "moe_intermediate_size": 1536}
    return synth(tmp_path_factory.mktemp("large") / "model", 1, **shape)


def run(slabs: Path, report: Path, *arguments) -> tuple[str, dict]:
    """The text, and what the report says of rank 0."""
    finished = run_module("tpi_mpi.generate", slabs, *PROMPT, *arguments, "--report", report, check=True)
    return finished.stdout, json.loads(report.read_text())["ranks"][0]


def test_any_budget_holds_and_gives_the_same_text(large, tmp_path):
    least = run_module("tpi_mpi.generate", large, *PROMPT, "--memory", "1MiB").stderr
    least = int(least.partition("give at least ")[2].partition("MiB")[0])
    text, unbounded = run(large, tmp_path / "r.json")
    assert unbounded["experts"]["kept"] == unbounded["experts"]["all"] == 64
    kept, missed = [], []
    for more in (0, 80, 200):
        budget = (least + more) * MIB
        own_text, rank = run(large, tmp_path / "r.json", "--memory", budget)
        assert own_text == text
        assert rank["peak_rss_bytes"] <= budget
        kept.append(rank["experts"]["kept"])
        missed.append(rank["experts"]["missed"])
    assert kept == sorted(kept)
    assert kept[0] < 4
    assert kept[-1] == 64
    assert missed == sorted(missed, reverse=True)
    assert missed[0] > 2 * missed[-1]


def test_ranks_of_different_cpus_choose_the_same_experts(checkpoints, tmp_path):
    """Pairs of experts tie exactly, or nearly: whoever rounds otherwise than others would choose another."""
    checkpoint = checkpoints.fresh("qwen3-moe", tmp_path / "checkpoint")
    tensors, random = load_file(checkpoint / "model.safetensors"), np.random.default_rng(3)
    for name in tensors:
        if name.endswith("mlp.gate.weight"):
            rows = tensors[name][::2]
            for distance in (0, 1e-7):
                half = slice(0, len(rows) // 2) if distance else slice(len(rows) // 2, None)
                tensors[name][1::2][half] = rows[half] * (1 + distance * random.standard_normal(rows[half].shape))
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    alone, several = tmp_path / "alone", tmp_path / "several"
    run_module("weights_tools.split", checkpoint, alone, "--ranks", 1, check=True)
    run_module("weights_tools.split", checkpoint, several, "--ranks", RANKS, check=True)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt_token_ids": [5, 3, 77, 90, 12, 40]}) + "\n")
    expected, found = (answers(slabs, tmp_path / "prompts.jsonl") for slabs in (alone, several))
    assert found["token_ids"] == expected["token_ids"]
    of_prompt = [list(answer["prompt_logprobs"][1:]) for answer in (found, expected)]
    np.testing.assert_allclose(*of_prompt, atol=1e-3)


CPUS = ({}, {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, {"NUMBA_ENABLE_AVX": "0"})


def answers(slabs: Path, prompts: Path) -> dict:
    """The answer to one prompt by ranks of which each has another CPU, if there are several."""
    command = [sys.executable, "-m", "tpi_mpi.generate", slabs, "--prompts", prompts]
    command += ["--max-new-tokens", 40, "--prompt-logprobs"]
    launcher, *_ = mpirun(1)
    words = [launcher]
    for rank in range(len(json.loads((slabs / "manifest.json").read_text())["slab_bytes"])):
        settings = [word for name, value in CPUS[rank].items() for word in ("-x", f"{name}={value}")]
        words += [*([":"] if rank else []), "-np", "1", *settings, *map(str, command)]
    finished = subprocess.run(words, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)
