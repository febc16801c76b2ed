"""The law of company: a sequence's tokens and log-probabilities are those that it has alone, to the last bit.

Whatever shares its sweeps, in whatever order, with however many slots, pages and rows; with pages in common or not.
"""

from dataclasses import replace

import numpy as np
import pytest
import zoo
from leading import tokens_of

from tpi_mpi.cli.program import open_slab
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.request import Request

NAMES = ["llama", "demo", "llama-dynamic", "phi3-longrope", "mistral-sliding", "int4-32", "qwen3-moe-mixed", "gpt-oss"]


def requests(vocabulary: int, context: int) -> list[Request]:
    """Prompts of many lengths, several of which begin alike; greedy and sampled; some are scored."""
    rng = np.random.default_rng(5)
    common = [*map(int, rng.integers(vocabulary, size=40))]
    made = []
    for index, length in enumerate((1, 5, 17, 33, 40, 3, 38, 9, 40, 2)):
        ids = common[: min(length, context - 16)] if index % 3 else [*map(int, rng.integers(vocabulary, size=length))]
        ids = [*ids, 7, index][: context - 16] if index % 2 else ids[: context - 16]
        sampling = SamplingOptions(
            max_new_tokens=1 + 3 * index % 14, temperature=0.9 * (index % 2), seed=index,
            prompt_logprobs=index == 4, top_logprobs=2 * (index == 4),
        )  # fmt: skip
        made.append(Request(tuple(ids), sampling))
    return made


class Cramped(Engine):
    """With little room, so that sequences wait, prompts are cut, and pages are taken from what nobody uses."""

    rows = pages = None

    def _lead(self, stack):
        self.room = replace(self.room, pages=self.pages or self.room.pages, rows=self.rows or 64)
        return super()._lead(stack)


def results(run, directory, wanted: list[Request], at_once: int, rows=None, pages=None, **options):
    """On rank 0: of each request, in the order of ``wanted``: tokens with log-probabilities, scores, cached tokens."""
    world, cores = run
    slab = open_slab(world, directory)
    longest = max(request.length for request in wanted)
    demand = Demand(longest, len(wanted), longest * len(wanted))
    engine = Cramped(world, cores, slab, MachineOptions(batch=at_once, **options), demand)
    engine.rows, engine.pages = rows, pages
    with engine:
        found = answers(engine, wanted) if world.is_root else None
        engine.follow()
    return found


def answers(engine: Engine, wanted: list[Request]) -> list[tuple]:
    leader = engine.leader
    sequences = [leader.submit(request) for request in wanted]
    tokens = {sequence: [] for sequence in sequences}
    while leader.busy:
        for sequence, token in leader.step():
            tokens[sequence] += [(token.id, token.logprob, token.top)] if token else []
    return [(tokens[sequence], sequence.prompt_scores, sequence.cached_tokens) for sequence in sequences]


@pytest.mark.parametrize("name", NAMES)
def test_company_changes_nothing(run, slabs, name):
    directory = slabs / name / "even"
    config = open_slab(run[0], directory).config
    wanted = requests(min(config.vocab_size, 100), config.context_length)
    alone = results(run, directory, wanted, 1, share_prefixes=False)
    settings = [
        {"at_once": 10},
        {"at_once": 10, "rows": 7, "share_prefixes": False},
        {"at_once": 4, "rows": 9, "pages": 5, "window": 1},
    ]
    for order, each in zip((1, -1, 1), settings, strict=True):
        found = results(run, directory, wanted[::order], **each)
        if found:
            assert [one[:2] for one in found[::order]] == [one[:2] for one in alone], each


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
def test_company_changes_nothing_on_narrower_wires(run, slabs, wire):
    """Of a width, too, that whole groups of bytes with a scale do not divide."""
    wanted = requests(100, 64)
    alone = results(run, slabs / "llama" / "even", wanted, 1, share_prefixes=False, wire=wire)
    found = results(run, slabs / "llama" / "even", wanted, 6, rows=11, wire=wire)
    if found:
        assert [one[:2] for one in found] == [one[:2] for one in alone]


def test_what_begins_alike_is_computed_once(run, slabs):
    prompt = tuple(range(3, 103))
    first, second = (
        Request(prompt, SamplingOptions(max_new_tokens=40)),
        Request(prompt, SamplingOptions(max_new_tokens=2)),
    )
    found = results(run, slabs / "demo" / "even", [first, second], 2)
    if found:
        assert [cached for *_, cached in found] == [0, 96]  # whole pages of 32


def test_an_earlier_turn_of_a_chat_is_remembered(run, slabs):
    """Its answer too, and of a page that is not full the part that is the same, which is copied."""
    world, cores = run
    slab = open_slab(world, slabs / "demo" / "even")
    with Engine(world, cores, slab, MachineOptions(batch=2), Demand.of_one(200)) as engine:
        if world.is_root:
            prompt = tuple(range(3, 53))
            answer = [
                token.id for token in tokens_of(engine.leader, Request(prompt, SamplingOptions(max_new_tokens=60)))
            ]
            turn = Request((*prompt, *answer[:40], 5, 6), SamplingOptions(max_new_tokens=3))
            sequence = engine.leader.submit(turn)
            while engine.leader.busy:
                engine.leader.step()
            assert sequence.cached_tokens == 90
        engine.follow()


def test_a_cancelled_sequence_leaves_its_room_to_others(run, slabs):
    world, cores = run
    slab = open_slab(world, slabs / "llama" / "even")
    with Engine(world, cores, slab, MachineOptions(batch=1), Demand.of_one(40)) as engine:
        if world.is_root:
            leader = engine.leader
            one, other, third = (
                leader.submit(Request((index, 2), SamplingOptions(max_new_tokens=30))) for index in (3, 4, 5)
            )
            owners = [owner for _ in range(3) for owner, _ in leader.step()]
            leader.cancel(one)
            leader.cancel(third)
            owners += [owner for owner, _ in leader.step()]
            assert owners == [one, one, one, other]
            while leader.busy:
                owners += [owner for owner, _ in leader.step()]
            assert owners.count(other) == 30
            assert third not in owners
        engine.follow()


@pytest.mark.parametrize("rows", [None, 6])
def test_scores_of_a_prompt_are_those_of_transformers(run, workshop, slabs, rows):
    """The tokens that transformers continues a prompt with, as a prompt: their scores are its log-probabilities."""
    (one, *_), count = zoo.referee(workshop / "zoo" / "llama"), 14
    request = Request((*one["prompt"], *one["token_ids"]), SamplingOptions(0, prompt_logprobs=True, top_logprobs=3))
    found = results(run, slabs / "llama" / "even", [request], 1, rows)
    if found:
        ((tokens, scores, _),) = found
        assert tokens == []
        assert [score.id for score in scores] == list(request.token_ids[1:])
        expected = one["logprobs"][range(count), one["token_ids"]]
        np.testing.assert_allclose([score.logprob for score in scores[-count:]], expected, atol=1e-3)
        for score, logprobs in zip(scores[-count:], one["logprobs"], strict=True):
            best = np.argsort(-logprobs)[:3]
            assert [id for id, _ in score.top] == best.tolist()
            np.testing.assert_allclose([logprob for _, logprob in score.top], logprobs[best], atol=1e-3)
