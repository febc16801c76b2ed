"""The law of drafts: whatever is drafted, by whatever, tokens and log-probabilities are those without, bit for bit."""

import json
import random

import pytest
import zoo
from test_batches import NAMES, Cramped, answers, requests

from tpi_mpi.cli.program import open_slab
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.request import Request
from tpi_mpi.tokenizer.tokenizer import Tokenizer

PROMPT = tuple(range(20, 50))


class Replay:
    """Drafts what sequences will say, as it is known from a run without drafts; here and there a token is wrong.

    said: of each request, its tokens.
    """

    def __init__(self, scheduler, said: dict[Request, list[int]]):
        self._scheduler, self._said, self._draw = scheduler, said, random.Random(1)
        self.longest = 0

    def drafts(self, decoding):
        made, left = {}, self._scheduler.drafted
        for sequence in decoding:
            most = min(left, self._scheduler.room_after(sequence), self._draw.choice((0, 1, 3, 9)))
            draft = self._said[sequence.request][sequence.new_tokens :][:most]
            made[sequence] = [id if self._draw.random() < 0.8 else self._draw.randrange(100) for id in draft]
            left -= len(draft)
            self.longest = max(self.longest, len(draft))
        return {sequence: draft for sequence, draft in made.items() if draft}

    def verified(self, sequence, count):
        pass

    def restarted(self, sequence):
        pass

    def ended(self, sequence):
        pass

    def swept(self, *figures):
        pass


class Replayed(Cramped):
    said = None

    def _speculate(self, stack, scheduler, embedding, throughput):
        self.replay = Replay(scheduler, self.said)
        return self.replay if self.said else super()._speculate(stack, scheduler, embedding, throughput)


class Eager(Engine):
    """Drafts as much as there is room for, as if that cost nothing."""

    def _speculate(self, stack, scheduler, embedding, throughput):
        made = super()._speculate(stack, scheduler, embedding, throughput)
        made._prospects.times.note(1, 10.0, 0.0)
        made._prospects.swept(1, 0, 10.0, 0.0, 0.0, 1, 1)
        made._prospects.swept = lambda *figures: None
        return made


def opened(run, directory, engine, wanted: list[Request], at_once: int, **options) -> Engine:
    world, cores = run
    longest = max(request.length for request in wanted)
    demand = Demand(longest, len(wanted), longest * len(wanted))
    return engine(world, cores, open_slab(world, directory), MachineOptions(batch=at_once, **options), demand)


def answered(engine: Engine, wanted: list[Request]) -> list | None:
    """On rank 0: tokens with log-probabilities, and scores, of each request."""
    found = [one[:2] for one in answers(engine, wanted)] if engine.world.is_root else None
    engine.follow()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_right_and_wrong_drafts_change_nothing(run, slabs, name):
    directory = slabs / name / "even"
    config = open_slab(run[0], directory).config
    wanted = requests(min(config.vocab_size, 100), config.context_length)
    with opened(run, directory, Engine, wanted, 1, draft="none") as engine:
        plain = answered(engine, wanted)
    for at_once, rows, window in ((1, 64, 1), (10, 20, None)):
        engine = opened(run, directory, Replayed, wanted, at_once, window=window)
        engine.rows = rows
        if plain:
            engine.said = {request: [id for id, *_ in own] for request, (own, _) in zip(wanted, plain, strict=True)}
        with engine:
            found = answered(engine, wanted)
        if plain:
            assert found == plain
            assert engine.replay.longest > 1


def chats(new_tokens: int = 24) -> list[Request]:
    """Prompts that say a thing twice, so that there is something to look up."""
    return [
        Request((*PROMPT[: 9 + index], *PROMPT[: 9 + index]), SamplingOptions(
            max_new_tokens=new_tokens + index, temperature=0.8 * (index % 2), seed=index,
            repetition_penalty=1.1 if index == 4 else None, top_k=20 if index == 3 else None, top_logprobs=2,
        ))
        for index in range(5)
    ]  # fmt: skip


@pytest.mark.parametrize("draft", ["lookup", "self", "MODEL", "lookup,self", "lookup,MODEL"])
def test_no_draft_changes_anything(run, slabs, draft):
    directory, wanted = slabs / "demo" / "even", chats()
    with opened(run, directory, Engine, wanted, 1, draft="none") as engine:
        plain = answered(engine, wanted)
    source = draft.replace("MODEL", str(slabs / "demo" / "small"))
    for at_once, window in ((1, None), (5, 1)):
        with opened(run, directory, Eager, wanted, at_once, window=window, draft=source) as engine:
            found = answered(engine, wanted)
            if plain:
                assert found == plain
                report = engine.leader.throughput.to_json()
                assert report["accepted"] > 0
                assert report["tokens_per_sweep"] > 1
                assert set(report["drafts"]) <= {*draft.replace("MODEL", "model").split(",")}
                assert report["sweeps"] < sum(request.sampling.max_new_tokens for request in wanted)


FORM = {
    "type": "object",
    "properties": {"names": {"type": "array", "items": {"enum": ["slab", "window"]}, "minItems": 8, "maxItems": 9}},
    "required": ["names"],
    "additionalProperties": False,
}


def forms() -> list[Request]:
    """Prompts whose answers follow a schema; in some, what was generated is made less probable."""
    schema = {"json_schema": FORM, "max_new_tokens": 100}
    more = ({}, {}, {"frequency_penalty": 0.4}, {"presence_penalty": 0.6, "logit_bias": {4: 2}})
    return [
        Request(PROMPT[index:], SamplingOptions(seed=index, temperature=0.9 * (index % 2), min_p=0.01, **schema, **own))
        for index, own in enumerate(more)
    ]


@pytest.mark.parametrize("draft", ["lookup", "self"])
def test_an_answer_by_a_schema_is_the_same_with_drafts(run, slabs, draft):
    directory, wanted = slabs / "demo" / "even", forms()
    with opened(run, directory, Engine, wanted, 1, draft="none", grammar=True) as engine:
        plain = answered(engine, wanted)
    with opened(run, directory, Eager, wanted, 4, draft=draft, grammar=True) as engine:
        found = answered(engine, wanted)
        if plain:
            assert found == plain
            assert engine.leader.throughput.to_json()["accepted"] > 0
            for tokens, _ in found:
                names = json.loads(Tokenizer.load(directory).decode([id for id, *_ in tokens]))["names"]
                assert set(names) <= {"slab", "window"}
                assert len(names) in (8, 9)


def test_a_run_without_grammars_refuses_a_schema(run, slabs):
    with opened(run, slabs / "demo" / "even", Engine, forms(), 1) as engine:
        if run[0].is_root:
            with pytest.raises(
                UserError, match="json_schema needs memory that was not set aside; start with --grammar"
            ):
                engine.leader.submit(forms()[0])
        engine.follow()


def test_a_draft_by_an_end_of_text_token_ends_there(run, slabs):
    """Tokens drafted after it are not said, even if they would have been right without it."""
    directory = slabs / "llama" / "even"
    plain_request = Request(tuple(zoo.PROMPTS[0]), SamplingOptions(max_new_tokens=12))
    with opened(run, directory, Engine, [plain_request], 1, draft="none") as engine:
        plain = answered(engine, [plain_request])
    said = [id for id, *_ in plain[0][0]] if plain else []
    said = run[0].broadcast(said)
    ended = Request(plain_request.token_ids, plain_request.sampling, frozenset([said[7]]))
    engine = opened(run, directory, Replayed, [ended], 1)
    engine.said = {ended: said}
    with engine:
        found = answered(engine, [ended])
    if found:
        assert [id for id, *_ in found[0][0]] == said[: said.index(said[7]) + 1]


def test_after_rejected_drafts_a_follow_up_finds_only_what_was_said(run, slabs):
    """Pages that were shared with drafts in them would be told by other log-probabilities."""
    directory, first = slabs / "demo" / "even", Request(PROMPT, SamplingOptions(max_new_tokens=60))
    with opened(run, directory, Engine, [first], 1, draft="none", share_prefixes=False) as engine:
        plain = answered(engine, [first])
        said = run[0].broadcast([id for id, *_ in plain[0][0]] if plain else None)
        turn = Request((*PROMPT, *said[:50], 5, 6), SamplingOptions(max_new_tokens=8))
        alone = answered(engine, [turn]) if turn.length <= 89 else None
    engine = opened(run, directory, Replayed, [first, turn], 1)
    engine.said = {first: said, turn: [1, 2, 3]}
    with engine:
        found = answered(engine, [first]), answered(engine, [turn])
    if plain:
        assert found == (plain, alone)
