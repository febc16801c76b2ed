"""The output file: an interrupted batch resumes where it stopped, and answers are never mixed up."""

import json

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.offline.prompts import Prompt
from tpi_mpi.offline.records import Records

PROMPTS = [Prompt(1, "one"), Prompt("b", "two"), Prompt(3, None, (7, 8))]


def record(prompt: Prompt) -> dict:
    value = {"id": prompt.id, "prompt": prompt.text, "text": "äß"}
    return value if prompt.token_ids is None else {**value, "prompt_token_ids": list(prompt.token_ids)}


def test_finished_prompts_are_not_repeated(tmp_path):
    path = tmp_path / "out.jsonl"
    with Records(path) as records:
        assert records.remaining(PROMPTS) == PROMPTS
        records.write(record(PROMPTS[0]))
        records.write(record(PROMPTS[2]))
    with Records(path) as records:
        assert records.remaining(PROMPTS) == [PROMPTS[1]]
        records.write(record(PROMPTS[1]))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1, 3, "b"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_record_that_was_cut_off_is_dropped_and_written_again(tmp_path, cut):
    path = tmp_path / "out.jsonl"
    with Records(path) as records:
        records.write(record(PROMPTS[0]))
        records.write(record(PROMPTS[1]))
    path.write_bytes(path.read_bytes()[:-cut])
    with Records(path) as records:
        assert records.remaining(PROMPTS[:2]) == [PROMPTS[1]]
        records.write(record(PROMPTS[1]))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [1, "b"]


def test_a_file_that_answers_other_prompts_is_refused(tmp_path):
    path = tmp_path / "out.jsonl"
    with Records(path) as records:
        records.write(record(PROMPTS[0]))
        records.write(record(PROMPTS[2]))
    for other in (Prompt(1, "another"), Prompt(3, None, (7, 9))):
        with Records(path) as records, pytest.raises(UserError, match="answers another prompt under id"):
            records.remaining([other])


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
        records.write(record(PROMPTS[0]))
        with pytest.raises(UserError, match=r"out\.jsonl is being written by another run; wait until that has ended"):
            Records(path)
        records.write(record(PROMPTS[1]))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [1, "b"]
    with Records(path) as records:
        assert records.remaining(PROMPTS) == [PROMPTS[2]]
