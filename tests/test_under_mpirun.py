"""Starts the tests in tests/mpi under mpirun, with everything they need prepared beforehand."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import packed
import pytest
import zoo
from conftest import REPOSITORY, environment, mpirun, run_module
from together import Together

from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.sampling.sampler import Sampler
from tpi_mpi.kernels.cpu import this_cpu
from tpi_mpi.model.partition import Partition
from tpi_mpi.tokenizer.chat_template import render_chat
from tpi_mpi.tokenizer.conversation import Conversation
from tpi_mpi.tokenizer.tokenizer import Tokenizer
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.splitting.cut import cut
from weights_tools.splitting.pieces import Source

PACKED = [name for name, format in packed.FORMATS.items() if format.packed]
SAMPLING = {"max_new_tokens": 30, "temperature": 1.2, "top_k": 50, "top_p": 0.95, "seed": 11}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, checkpoints, demo) -> Path:
    """zoo/NAME: a checkpoint and what transformers says of it. sampled.json: what the seed of SAMPLING gives."""
    directory = tmp_path_factory.mktemp("workshop")
    (directory / "zoo").mkdir()
    for name in zoo.CASES:
        (directory / "zoo" / name).symlink_to(checkpoints[name])
    for name in PACKED:
        (directory / "zoo" / name).mkdir()
        referee = packed_checkpoint(name, checkpoints).referee()
        (directory / "zoo" / name / "referee.json").write_text(json.dumps(referee))
    (directory / "zoo" / "demo").mkdir()
    (directory / "zoo" / "demo" / "referee.json").write_text(json.dumps(transformers_of(demo)))
    sampled = sample(make_slabs(Checkpoint(checkpoints["llama"]), directory / "one", 1))
    (directory / "sampled.json").write_text(json.dumps({"sampling": SAMPLING, "token_ids": sampled}))
    return directory


def packed_checkpoint(name: str, checkpoints) -> packed.PackedCheckpoint:
    return packed.PackedCheckpoint(checkpoints["llama-head-dim"], packed.FORMATS[name])


def transformers_of(demo: Path) -> list[dict]:
    """Its answers to questions that the demo model knows: near ties of nonsense would test rounding alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.bfloat16), Tokenizer.load(demo)
    questions = ("What is a slab?", "Does it need a GPU?")
    prompts = [render_chat(tokenizer, Conversation.of(question)) for question in questions]
    return [zoo.continuation(model, tokenizer.encode(prompt)) for prompt in prompts]


def make_slabs(checkpoint: Source, target: Path, ranks: int, ratios=None) -> Path:
    target.mkdir(parents=True)
    cut(checkpoint, target, Partition.of(checkpoint.config, ranks, ratios))
    return target


def sample(slabs: Path) -> list[list[int]]:
    """The sampled continuations of the prompts, without MPI."""
    sequences = []
    for prompt in zoo.PROMPTS:
        sampler, ids = Sampler(SamplingOptions(**SAMPLING), prompt), list(prompt)
        with Together(slabs, 1) as together:
            for start in [0, *range(len(prompt), len(prompt) + SAMPLING["max_new_tokens"] - 1)]:
                ids.append(sampler.choose(together.forward(ids[start:], start), len(ids)))
                sampler.see(ids[-1])
        sequences.append(ids[len(prompt) :])
    return sequences


@pytest.fixture(scope="module")
def slabs_of(workshop, checkpoints, demo, demo_draft):
    """Makes what the tests run on a number of ranks, once."""

    @cache
    def make(ranks: int) -> None:
        slabs, uneven = workshop / "slabs" / str(ranks), [2 * rank + 1 for rank in range(ranks)]
        for name in zoo.CASES:
            checkpoint = Checkpoint(workshop / "zoo" / name)
            make_slabs(checkpoint, slabs / name / "even", ranks)
            make_slabs(checkpoint, slabs / name / "uneven", ranks, uneven)
        for name in PACKED:
            make_slabs(packed_checkpoint(name, checkpoints), slabs / name / "even", ranks)
        own, small = slabs / "demo" / "even", slabs / "demo" / "small"
        run_module("weights_tools.split", demo, own, "--ranks", ranks, "--with-draft", "int4", check=True)
        run_module("weights_tools.split", demo_draft, small, "--ranks", 1, check=True)

    return make


def pass_tests(workshop: Path, ranks: int, *arguments: str, **settings: str) -> None:
    """Runs the tests in tests/mpi, or some of them."""
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "tests/mpi", "--workshop", workshop, *arguments]
    finished = subprocess.run(
        [*mpirun(ranks), *map(str, command)],
        cwd=REPOSITORY,
        env=environment() | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-6000:]


# Three ranks differ from others in how they share work and add up, and four share a draft of their own as well; the
# rest is seen on one and two, and company on four.
SOME = {
    3: "not test_batches and not window and not budget and not format and not test_interface and not speculation",
    4: "not speculation or (no_draft and self and not lookup)",
}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_laws_hold_on_any_number_of_ranks(ranks, workshop, slabs_of):
    slabs_of(ranks)
    slabs_of(max(1, ranks // 2))  # of two models side by side
    pass_tests(workshop, ranks, "-k", SOME.get(ranks, ""))


@pytest.mark.parametrize(
    "settings", [{"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, {"NUMBA_ENABLE_AVX": "0"}]
)
@pytest.mark.skipif(not this_cpu().wide, reason="this CPU may not have what the other has")
def test_older_kernels_and_none_give_the_same_tokens(settings, workshop, slabs_of):
    slabs_of(2)
    some = "(engine and tokens_of and not uneven and not float8) or (company and (phi3 or int4) and not wires)"
    pass_tests(workshop, 2, "-k", some, **settings)
