"""Answers of generate that follow JSON schemas: of the command line, or of lines of a prompts file."""

import json

import pytest
from conftest import run_module

QUESTION = "What is a slab?"
FORM = {
    "type": "object",
    "properties": {
        "answer": {"type": "string", "pattern": "^[a-z ]{5,40}$"},
        "sure": {"type": "boolean"},
        "parts": {"type": "array", "items": {"enum": ["shard", "layer", "rank"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["answer", "sure", "parts"],
    "additionalProperties": False,
}


@pytest.fixture
def form(tmp_path):
    path = tmp_path / "form.json"
    path.write_text(json.dumps(FORM))
    return path


def generate(slabs, *arguments, ranks=None):
    return run_module("tpi_mpi.generate", slabs, "--chat", *arguments, ranks=ranks)


def check(text: str) -> None:
    found = json.loads(text)
    assert list(found) == ["answer", "sure", "parts"]
    assert 5 <= len(found["answer"]) <= 40
    assert isinstance(found["sure"], bool)
    assert set(found["parts"]) <= {"shard", "layer", "rank"}


def test_answers_follow_it_and_are_the_same_whatever_drafts_on_any_number_of_ranks(demo_slabs, form, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"id": seed, "prompt": QUESTION, "temperature": 1.0 * (seed > 0), "seed": seed} for seed in range(4)]
    lines.append({"id": "own", "prompt": QUESTION, "json_schema": {"enum": ["slab"]}})
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = []
    for ranks, draft in ((None, "none"), (None, "lookup"), (2, "lookup")):
        arguments = ("--prompts", prompts, "--json-schema", form, "--draft", draft)
        finished = generate(demo_slabs(ranks or 1), *arguments, ranks=ranks)
        assert finished.returncode == 0, finished.stderr
        records = {record["id"]: record for record in map(json.loads, finished.stdout.splitlines())}
        found.append({id: record["text"] for id, record in records.items()})
        assert {record["finish_reason"] for record in records.values()} == {"stop"}
    assert found[0] == found[1] == found[2]
    assert found[0].pop("own") == '"slab"'
    for text in found[0].values():
        check(text)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "form.json does not exist"),
        ("[1]", "form.json is not a JSON object"),
        ('{"not": {}}', 'json_schema cannot be followed: Unimplemented keys: ["not"]; change the schema'),
    ],
)
def test_a_schema_that_is_none_is_named(demo_slabs, tmp_path, content, words):
    path = tmp_path / "form.json"
    if content:
        path.write_text(content)
    finished = generate(demo_slabs(1), "--prompt", QUESTION, "--json-schema", path)
    assert finished.returncode == 2
    assert words in finished.stderr
