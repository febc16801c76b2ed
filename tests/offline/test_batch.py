"""Whatever order the engine finishes in, and wherever a run is cut off, every prompt is answered once and the same."""

import json
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.programs import GenerateOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.report import Latencies
from tpi_mpi.engine.request import Request, Score, Token
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.offline.batch import Batch

MOST = 4


class Unmeasured(Latencies):
    """Latencies that are not kept."""

    def add(self, seconds: float, first: bool) -> None:
        pass


class FakeSequence:
    def __init__(self, request: Request):
        self.request = request
        self.cached_tokens = 0
        self.prompt_scores = [Score(id, -float(id), ((id, -float(id)),)) for id in request.token_ids[1:]]
        self.count = 0


class FakeEngine:
    """Continues token ids by counting up, up to four sequences at a time, in an order of its own."""

    def __init__(self, seed: int = 0):
        self._draw = random.Random(seed)
        self.sequences: list[FakeSequence] = []
        self.submitted = 0
        self.cancelled = 0

    @property
    def hungry(self) -> bool:
        return len(self.sequences) < 2 * MOST

    @property
    def busy(self) -> bool:
        return bool(self.sequences)

    def submit(self, request: Request) -> FakeSequence:
        assert self.hungry
        self.submitted += 1
        self.sequences.append(FakeSequence(request))
        return self.sequences[-1]

    def cancel(self, sequence: FakeSequence) -> None:
        self.cancelled += 1
        self.sequences.remove(sequence)

    def step(self) -> Iterator[tuple[FakeSequence, Token | None]]:
        assert self.busy
        self._draw.shuffle(self.sequences)
        for sequence in self.sequences[:MOST]:
            token = self._next(sequence)
            if token is None or token.finish_reason:
                self.sequences.remove(sequence)
            yield sequence, token

    def _next(self, sequence: FakeSequence) -> Token | None:
        request = sequence.request
        if request.sampling.max_new_tokens == 0:
            return None
        sequence.count += 1
        id = (request.token_ids[-1] + sequence.count) % 1000
        return Token(id, -0.5, 0.01, request.finish_reason(id, sequence.count), ((id, -0.5),))


@pytest.fixture
def prompts_file(tmp_path):
    """Writes a prompts file; returns the options of a run that answers it."""

    def write(*lines: dict | str, output: str | None = "out.jsonl", **settings) -> GenerateOptions:
        path = tmp_path / "p.jsonl"
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text("".join(f"{text}\n" for text in texts))
        settings = {"sampling": SamplingOptions(max_new_tokens=5, seed=1), **settings}
        output = str(tmp_path / output) if output else None
        return GenerateOptions(tmp_path / "slabs", prompts=str(path), output=output, **settings)

    return write


@pytest.fixture
def quick(monkeypatch):
    """Does not wait for the disk."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def config(demo) -> ModelConfig:
    return ModelConfig.load(demo / "config.json")


@pytest.fixture
def answer(demo, config):
    """Does what the options ask for with a fake engine; returns the records, and the engine."""

    def run(options: GenerateOptions, seed: int = 0, slabs: Path = demo) -> tuple[list[dict], FakeEngine]:
        engine = FakeEngine(seed)
        with Batch(replace(options, slabs=slabs), config) as batch:
            batch.answer(engine, Latencies())
        assert not engine.busy
        return read(options.output), engine

    return run


def read(path: str | None) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()] if path else []


def by_id(records: list[dict]) -> dict:
    found = {record["id"]: record for record in records}
    assert len(found) == len(records)
    return found


LINES = [
    {"prompt_token_ids": [3, 4], "max_new_tokens": 1},
    *({"id": f"ä{n}", "prompt_token_ids": [n], "max_new_tokens": 1 + n % 7} for n in range(1, 20)),
    {"prompt": "What is a slab?"},
]


def test_any_order_of_finishing_gives_the_same_records(prompts_file, answer):
    options = [prompts_file(*LINES, output=f"{seed}.jsonl", logprobs=True) for seed in range(5)]
    runs = [answer(each, seed)[0] for seed, each in enumerate(options)]
    assert len({tuple(record["id"] for record in run) for run in runs}) > 1
    assert all(by_id(run) == by_id(runs[0]) for run in runs)
    assert len(runs[0]) == len(LINES)
    assert by_id(runs[0])["ä3"]["token_ids"] == [4, 5, 6, 7][:4]


def test_a_restart_completes_the_file_wherever_it_was_cut(prompts_file, answer, tmp_path, quick):
    bad = ("{", {"id": "ä3", "prompt": "again"}, {"id": "long", "prompt_token_ids": [1] * 600})
    options = prompts_file(*LINES[:6], *bad, skip_bad=True)
    whole = by_id(answer(options, slabs=tmp_path)[0])  # where there is no tokenizer to wait for
    assert len(whole) == 9
    content = Path(options.output).read_bytes()
    for cut in range(len(content)):
        Path(options.output).write_bytes(content[:cut])
        records, engine = answer(options, cut, tmp_path)
        assert by_id(records) == whole
        assert engine.submitted <= 6
    assert answer(options, slabs=tmp_path)[1].submitted == 0


def test_everything_that_ends_in_one_sweep_is_one_write(prompts_file, answer, monkeypatch):
    groups = []
    monkeypatch.setattr("tpi_mpi.offline.records.Records.write", lambda self, records: groups.append(len(records)))
    answer(prompts_file(*({"prompt_token_ids": [n], "max_new_tokens": 1} for n in range(10))))
    assert groups == [4, 4, 2]


def test_stop_strings_end_a_sequence_and_free_its_slot(prompts_file, answer, demo, config):
    ((whole,), _) = answer(prompts_file({"prompt": "Hi", "max_new_tokens": 30}, output="whole"))
    stop = whole["text"][8:12]
    ((cut,), engine) = answer(prompts_file({"prompt": "Hi", "max_new_tokens": 30, "stop": stop}))
    assert (cut["text"], cut["finish_reason"]) == (whole["text"].partition(stop)[0], "stop")
    assert engine.cancelled == 1
    assert len(cut["token_ids"]) < len(whole["token_ids"])


def test_a_prompt_can_be_scored_alone(prompts_file, answer):
    sampling = SamplingOptions(0, prompt_logprobs=True, top_logprobs=1)
    records, _ = answer(prompts_file({"prompt_token_ids": [3, 4, 5]}, sampling=sampling))
    assert records[0] == {
        "id": 1,
        "prompt": None,
        "prompt_token_ids": [3, 4, 5],
        "text": "",
        "token_ids": [],
        "finish_reason": "length",
        "cached_tokens": 0,
        "top_logprobs": [],
        "prompt_logprobs": [None, -4.0, -5.0],
        "prompt_top_logprobs": [None, [[4, -4.0]], [[5, -5.0]]],
    }


def test_records_go_to_standard_output_without_an_output_file(prompts_file, answer, capfd):
    answer(prompts_file(*LINES, output=None))
    assert len(by_id([json.loads(line) for line in capfd.readouterr().out.splitlines()])) == len(LINES)


def test_one_prompt_streams(demo, answer, capfd, tmp_path):
    sampling = SamplingOptions(max_new_tokens=20, seed=1)
    options = GenerateOptions(demo, sampling, prompt="Hi", output=str(tmp_path / "o.jsonl"))
    (record,), _ = answer(options)
    assert capfd.readouterr().out == record["text"] + "\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 of {file}: not JSON"),
        ({"id": "a", "prompt": "b"}, "line 2 of {file}: id 'a' was used before; every prompt needs its own"),
        ({"prompt_token_ids": [1024]}, "line 2 of {file}: token id 1024 is not below the model's vocab_size 1024"),
    ],
)
def test_a_mistake_refuses_the_whole_file_before_any_work(prompts_file, demo, config, line, sentence):
    options = prompts_file({"id": "a", "prompt": "a"}, line, {"id": "c", "prompt": "c"})
    with pytest.raises(UserError) as refusal:
        Batch(replace(options, slabs=demo), config)
    assert str(refusal.value).startswith(sentence.format(file=options.prompts))
    assert read(options.output) == []


def test_skipped_lines_are_answered_with_their_mistakes(prompts_file, answer):
    lines = [
        {"id": "a", "prompt_token_ids": [1]},
        "{",
        {"id": "a", "prompt": "again"},
        {"id": "long", "prompt": "Hi", "max_new_tokens": 600},
        {"id": "key", "prompt": "Hi", "temprature": 0},
        {"id": "b", "prompt_token_ids": [2]},
    ]
    records, engine = answer(prompts_file(*lines, skip_bad=True))
    records = by_id(records)
    assert engine.submitted == 2
    assert set(records) == {"a", 2, 3, "long", "key", "b"}
    assert records["long"] == {
        "id": "long",
        "prompt": "Hi",
        "finish_reason": "error",
        "error": "1 prompt tokens and 600 new ones exceed the model's context of 512; give max_new_tokens 511 or fewer",
    }
    assert (records[2]["prompt"], records[2]["error"][:8]) == (None, "not JSON")
    assert (records[3]["prompt"], records[3]["finish_reason"]) == ("again", "error")
    assert records["key"]["error"].startswith("key 'temprature' is not understood")
    assert records["b"]["finish_reason"] == "length"


def test_a_mistake_that_was_put_right_is_answered(prompts_file, answer):
    answer(prompts_file({"prompt": "Hi", "max_new_tokens": 600}, skip_bad=True))
    records, _ = answer(prompts_file({"prompt": "Hi", "max_new_tokens": 2}))
    assert [record["finish_reason"] for record in records] == ["error", "length"]


def test_a_file_of_nothing_but_mistakes_is_answered(prompts_file, answer):
    records, engine = answer(prompts_file(*["{"] * 2500, skip_bad=True))
    assert ([record["id"] for record in records], engine.submitted) == ([*range(1, 2501)], 0)


def test_a_checkpoint_that_lacks_a_tokenizer_is_no_mistake_of_a_line(prompts_file, config):
    with pytest.raises(UserError, match=r"neither tokenizer\.json"):
        Batch(prompts_file({"prompt": "a"}, skip_bad=True), config)
    assert Batch(prompts_file({"prompt_token_ids": [1]}), config).survey.requests == 1


def test_a_file_without_prompts_is_refused(prompts_file, config):
    with pytest.raises(UserError, match=r"p\.jsonl has no prompts"):
        Batch(prompts_file("", "  "), config)


def test_the_survey_counts_what_is_left(prompts_file, answer, demo, config):
    first = prompts_file({"id": "a", "prompt_token_ids": [1] * 9})
    answer(first)
    scored = {"id": "b", "prompt_token_ids": [1, 2], "max_new_tokens": 0, "prompt_logprobs": True}
    options = prompts_file({"id": "a", "prompt_token_ids": [1] * 9}, scored, {"id": "c", "prompt_token_ids": [1]}, "{")
    survey = Batch(replace(options, skip_bad=True), config).survey
    assert (survey.prompts, survey.answered, survey.mistakes, survey.requests) == (4, 1, 1, 2)
    assert (survey.longest, survey.positions, survey.top) == (5, 7, 0)


def test_a_long_file_is_never_held(prompts_file, config, quick):
    count = 10_000
    options = prompts_file(*(f'{{"id": "prompt number {n}", "prompt_token_ids": [{n % 1000}]}}' for n in range(count)))
    options = replace(options, sampling=SamplingOptions(max_new_tokens=1))
    tracemalloc.start()
    with Batch(options, config) as batch:
        engine = FakeEngine()
        batch.answer(engine, Unmeasured())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert engine.submitted == count
    assert peak < 1024**2
