"""The output file: an interrupted batch resumes where it stopped, and answers are never mixed up."""

import json

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.completion import Completion
from tpi_mpi.engine.request import Request, Score, Token
from tpi_mpi.offline.prompts import Mistake, Prompt
from tpi_mpi.offline.record import record_of, record_of_mistake
from tpi_mpi.offline.records import Records

PROMPTS = [Prompt(1, "one"), Prompt("b", "two"), Prompt(3, None, (7, 8))]


def record(prompt: Prompt) -> dict:
    value = {"id": prompt.id, "prompt": prompt.text, "text": "äß"}
    return value if prompt.token_ids is None else {**value, "prompt_token_ids": list(prompt.token_ids)}


def remaining(records: Records, prompts: list) -> list:
    return [prompt for prompt in prompts if not records.answered(prompt)]


def test_finished_prompts_are_not_repeated(tmp_path):
    path = tmp_path / "out.jsonl"
    with Records(path) as records:
        assert remaining(records, PROMPTS) == PROMPTS
        records.write([record(PROMPTS[0]), record(PROMPTS[2])])
    with Records(path) as records:
        assert remaining(records, PROMPTS) == [PROMPTS[1]]
        records.write([record(PROMPTS[1])])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1, 3, "b"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_record_that_was_cut_off_is_dropped_and_written_again(tmp_path, cut):
    path = tmp_path / "out.jsonl"
    with Records(path) as records:
        records.write([record(PROMPTS[0]), record(PROMPTS[1])])
    path.write_bytes(path.read_bytes()[:-cut])
    with Records(path) as records:
        assert remaining(records, PROMPTS[:2]) == [PROMPTS[1]]
        records.write([record(PROMPTS[1])])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [1, "b"]


def test_a_file_that_answers_other_prompts_is_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    with Records(path) as records:
        records.write([record(PROMPTS[0]), record(PROMPTS[2])])
    for other in (Prompt(1, "another"), Prompt(3, None, (7, 9))):
        with Records(path) as records, pytest.raises(UserError, match="answers another prompt under id"):
            records.answered(other)


@pytest.mark.parametrize("content", ["my thesis\n", '{"no": "id"}\n', "[1]\n"])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "thesis.tex"
    path.write_text(content)
    with pytest.raises(UserError, match="not an output file of this program"):
        Records(path)
    assert path.read_text() == content


def test_a_file_without_an_end_of_line_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "thesis.tex"
    path.write_text("my thesis")
    with pytest.raises(UserError, match="not an output file of this program"):
        Records(path)
    assert path.read_text() == "my thesis"


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        Records(tmp_path / "no" / "out.jsonl")


def test_two_runs_cannot_write_one_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with Records(path) as records:
        records.write([record(PROMPTS[0])])
        with pytest.raises(UserError, match=r"out\.jsonl is being written by another run; wait until that has ended"):
            Records(path)
        records.write([record(PROMPTS[1])])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [1, "b"]
    with Records(path) as records:
        assert remaining(records, PROMPTS) == [PROMPTS[2]]


def test_a_restart_knows_its_mistakes_but_does_not_take_them_for_answers(tmp_path):
    path = tmp_path / "out.jsonl"
    mistakes = [Mistake(1, None, "not JSON", 1), Mistake("x", "too long", "too long", 2)]
    with Records(path) as records:
        assert remaining(records, mistakes) == mistakes
        records.write(map(record_of_mistake, mistakes))
    with Records(path) as records:
        assert remaining(records, mistakes) == []
        corrected = [Prompt(1, "one"), Prompt("x", "too long")]
        assert remaining(records, corrected) == corrected
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert written[0] == {"id": 1, "prompt": None, "finish_reason": "error", "error": "not JSON"}
    assert (written[1]["id"], written[1]["prompt"]) == ("x", "too long")


def test_numbers_and_texts_are_different_ids(tmp_path):
    with Records(tmp_path / "out.jsonl") as records:
        records.write([record(Prompt(1, "a"))])
    with Records(tmp_path / "out.jsonl") as records:
        assert remaining(records, [Prompt(1, "a"), Prompt("1", "b")]) == [Prompt("1", "b")]


def test_half_a_surrogate_pair_comes_back_as_it_was(tmp_path):
    path, odd = tmp_path / "out.jsonl", Prompt("\udfff", "a\ud800")
    with Records(path) as records:
        records.write([record(odd)])
    assert json.loads(path.read_text(encoding="utf-8")) == record(odd)
    with Records(path) as records:
        assert records.answered(odd)


def test_a_group_is_one_write(tmp_path, monkeypatch):
    synced = []
    with Records(tmp_path / "out.jsonl") as records:
        monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(len((tmp_path / "out.jsonl").read_bytes())))
        records.write([record(prompt) for prompt in PROMPTS])
    assert synced == [len((tmp_path / "out.jsonl").read_bytes())]


def finished(prompt: Prompt, *tokens: Token) -> Completion:
    completion = Completion(None, Request((7, 8), prompt.sampling))
    for token in tokens:
        completion.push(token)
    return completion


def test_a_record_has_what_was_asked_for():
    tokens = [
        Token(5, -0.5, 0.1, None, ((5, -0.5), (6, -1.0))),
        Token(6, -0.25, 0.1, "length", ((6, -0.25), (5, -2.0))),
    ]
    plain = Prompt("a", None, (7, 8))
    record = record_of(plain, finished(plain, *tokens), logprobs=False, cached_tokens=1)
    assert record == {
        "id": "a",
        "prompt": None,
        "prompt_token_ids": [7, 8],
        "text": "",
        "token_ids": [5, 6],
        "finish_reason": "length",
        "cached_tokens": 1,
    }
    scored = Prompt("a", "b", None, SamplingOptions(prompt_logprobs=True, top_logprobs=2))
    record = record_of(scored, finished(scored, *tokens), True, 0, [Score(8, -3.0, ((1, -0.1), (2, -4.0)))])
    assert list(record)[5:] == [
        "logprobs",
        "cached_tokens",
        "top_logprobs",
        "prompt_logprobs",
        "prompt_top_logprobs",
    ]
    assert record["logprobs"] == [-0.5, -0.25]
    assert json.loads(json.dumps(record["top_logprobs"])) == [[[5, -0.5], [6, -1.0]], [[6, -0.25], [5, -2.0]]]
    assert record["prompt_logprobs"] == [None, -3.0]
    assert json.loads(json.dumps(record["prompt_top_logprobs"])) == [None, [[1, -0.1], [2, -4.0]]]


def test_a_prompt_that_was_only_scored_has_a_record_too():
    prompt = Prompt("a", "b", None, SamplingOptions(0, prompt_logprobs=True))
    completion = finished(prompt)
    assert completion.push(None) == ""
    record = record_of(prompt, completion, False, 0, [Score(8, -3.0)])
    assert (record["token_ids"], record["finish_reason"], record["prompt_logprobs"]) == ([], "length", [None, -3.0])
