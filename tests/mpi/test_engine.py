"""Laws of the whole: any number of ranks, any split, window, budget and allreduce give transformers' tokens."""

import json
from pathlib import Path

import numpy as np
import packed
import pytest
import zoo
from leading import tokens_of

from tpi_mpi.cli.program import open_slab
from tpi_mpi.common.options.machine import ALLREDUCES, MachineOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.request import Request
from tpi_mpi.model.room import Room
from tpi_mpi.weights import budget
from tpi_mpi.weights.budget import Plan, spread, window_size


class PlannedEngine(Engine):
    """With a plan of the test's own."""

    plan_of = None

    def _plan(self, blocks: dict[str, int], room: Room) -> Plan:
        return self.plan_of(blocks) if self.plan_of else super()._plan(blocks, room)


def generate(run, directory: Path, prompts, sampling: SamplingOptions, plan=None, **options):
    """On rank 0: the tokens of each prompt; on the others None."""
    world, cores = run
    slab = open_slab(world, directory)
    requests = [Request(tuple(prompt), sampling) for prompt in prompts]
    capacity = max(request.length for request in requests)
    engine = PlannedEngine(world, cores, slab, MachineOptions(**options), Demand.of_one(capacity))
    engine.plan_of = plan
    with engine:
        tokens = [list(tokens_of(engine.leader, request)) for request in requests] if world.is_root else None
        engine.follow()
    return tokens


def greedy(*arguments, **options) -> list[list[int]] | None:
    tokens = generate(*arguments, SamplingOptions(max_new_tokens=zoo.NEW_TOKENS), **options)
    return tokens and [[token.id for token in sequence] for sequence in tokens]


@pytest.mark.parametrize("split", ["even", "uneven"])
@pytest.mark.parametrize("name", zoo.CASES)
def test_any_number_of_ranks_gives_the_tokens_of_transformers(run, workshop, slabs, name, split):
    sampling = SamplingOptions(max_new_tokens=zoo.NEW_TOKENS)
    sequences = generate(run, slabs / name / split, zoo.PROMPTS, sampling)
    if sequences is None:
        return
    for tokens, expected in zip(sequences, zoo.referee(workshop / "zoo" / name), strict=True):
        ids = [token.id for token in tokens]
        assert ids == expected["token_ids"]
        logprobs = expected["logprobs"][np.arange(len(ids)), ids]
        np.testing.assert_allclose([token.logprob for token in tokens], logprobs, atol=1e-3)


@pytest.mark.parametrize(("depth", "part"), [(1, 0), (2, 0), (None, 0), (1, 0.5), (None, 0.8), (None, 1)])
def test_no_window_changes_a_token(run, workshop, slabs, depth, part):
    def plan(blocks: dict[str, int]) -> Plan:
        names, sizes = list(blocks), list(blocks.values())
        pinned = spread(sizes, part)
        return Plan(frozenset(names[index] for index in pinned), window_size(sizes, pinned, depth), depth)

    expected = zoo.referee(workshop / "zoo" / "llama")
    sequences = greedy(run, slabs / "llama" / "even", zoo.PROMPTS, plan=plan)
    if sequences:
        assert sequences == [result["token_ids"] for result in expected]


@pytest.mark.parametrize("window", [1, None])
@pytest.mark.parametrize("name", [name for name, format in packed.FORMATS.items() if format.packed])
def test_every_format_gives_the_tokens_of_its_weights(run, workshop, slabs, name, window):
    sequences = greedy(run, slabs / name / "even", zoo.PROMPTS, window=window, kv="float32")
    if sequences:
        assert sequences == [result["token_ids"] for result in zoo.referee(workshop / "zoo" / name)]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("allreduce", ALLREDUCES)
def test_no_allreduce_changes_a_token(run, workshop, slabs, allreduce, overlap, monkeypatch):
    monkeypatch.setattr(
        "tpi_mpi.engine.sweep.chunking.most_rows", lambda hidden_size: 7
    )  # prompts come in several chunks
    expected = zoo.referee(workshop / "zoo" / "demo")
    prompts = [result["prompt"] for result in expected]
    sequences = greedy(run, slabs / "demo" / "even", prompts, allreduce=allreduce, overlap=overlap)
    if sequences:
        assert sequences == [result["token_ids"] for result in expected]


def test_a_narrower_wire_changes_log_probabilities_and_little_else(run, slabs):
    sampling, directory = SamplingOptions(max_new_tokens=1), slabs / "demo" / "even"
    exact = generate(run, directory, zoo.PROMPTS, sampling)
    narrow = generate(run, directory, zoo.PROMPTS, sampling, wire="bfloat16")
    if exact:
        pairs = [(one[0].logprob, other[0].logprob) for one, other in zip(exact, narrow, strict=True)]
        if run[0].size > 1:  # what a single rank computes in bfloat16 arrives as it is
            assert any(one != other for one, other in pairs)
        np.testing.assert_allclose(*zip(*pairs, strict=True), atol=0.5)


def test_every_budget_from_the_least_to_all_gives_the_same_tokens(run, workshop, slabs):
    expected = zoo.referee(workshop / "zoo" / "demo")
    prompts = [result["prompt"] for result in expected]
    for part in (0, 1, 4, 7, 8):

        def plan(blocks: dict[str, int], part=part) -> Plan:
            least, all_of_them = max(blocks.values()), sum(blocks.values())
            return budget.plan(blocks, least + (all_of_them - least) * part // 8, fixed=0)

        sequences = greedy(run, slabs / "demo" / "even", prompts, plan=plan)
        if sequences:
            assert sequences == [result["token_ids"] for result in expected]


@pytest.mark.parametrize(("name", "slots"), [("qwen3-moe", 2), ("qwen3-moe", 9), ("gpt-oss", 3), ("glm4-moe", 11)])
def test_no_number_of_slots_for_experts_changes_a_bit(run, workshop, slabs, name, slots, monkeypatch):
    def plan(blocks: dict[str, int], slots=slots) -> Plan:
        return Plan(frozenset(blocks), 0, slots=slots)

    sampling, directory = SamplingOptions(max_new_tokens=zoo.NEW_TOKENS), slabs / name / "even"
    monkeypatch.setattr("tpi_mpi.kernels.compiled.experts.programs.KEPT_BYTES", 0)  # one after the other, in order
    few = generate(run, directory, zoo.PROMPTS, sampling, plan)
    monkeypatch.undo()
    many = generate(run, directory, zoo.PROMPTS, sampling, lambda blocks: plan(blocks, 1000))
    if few:
        for one, other, expected in zip(few, many, zoo.referee(workshop / "zoo" / name), strict=True):
            assert [(token.id, token.logprob) for token in one] == [(token.id, token.logprob) for token in other]
            assert [token.id for token in one] == expected["token_ids"]


def test_a_run_repeats_bit_for_bit(run, slabs):
    sampling = SamplingOptions(max_new_tokens=zoo.NEW_TOKENS)
    first, second = (generate(run, slabs / "demo" / "even", zoo.PROMPTS, sampling) for _ in range(2))
    if first:
        for one, other in zip(first, second, strict=True):
            assert [(token.id, token.logprob) for token in one] == [(token.id, token.logprob) for token in other]


def test_a_seed_gives_the_same_samples_on_any_number_of_ranks(run, workshop, slabs):
    expected = json.loads((workshop / "sampled.json").read_text())
    sampling = SamplingOptions(**expected["sampling"])
    sequences = generate(run, slabs / "llama" / "even", zoo.PROMPTS, sampling)
    if sequences:
        assert [[token.id for token in sequence] for sequence in sequences] == expected["token_ids"]


def test_a_long_prompt_in_several_chunks_is_one_sequence(run, workshop, slabs, monkeypatch):
    monkeypatch.setattr("tpi_mpi.engine.sweep.chunking.most_rows", lambda hidden_size: 3)
    sequences = greedy(run, slabs / "mistral-sliding" / "uneven", zoo.PROMPTS)
    if sequences:
        assert sequences == [result["token_ids"] for result in zoo.referee(workshop / "zoo" / "mistral-sliding")]


def test_an_end_of_text_token_ends_it(run, workshop, slabs):
    world, cores = run
    slab = open_slab(world, slabs / "llama" / "even")
    expected = zoo.referee(workshop / "zoo" / "llama")[0]["token_ids"]
    request = Request(tuple(zoo.PROMPTS[0]), SamplingOptions(max_new_tokens=9), frozenset({expected[4]}))
    with Engine(world, cores, slab, MachineOptions(), Demand.of_one(64)) as engine:
        if world.is_root:
            tokens = list(tokens_of(engine.leader, request))
            end = expected.index(expected[4]) + 1
            assert [token.id for token in tokens] == expected[:end]
            assert [token.finish_reason for token in tokens] == [None] * (end - 1) + ["stop"]
        engine.follow()
