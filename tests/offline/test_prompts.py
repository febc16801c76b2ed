"""The prompts file: what a line may contain, and what is named when it contains anything else."""

import json

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options import SamplingOptions
from tpi_mpi.offline.prompts import read_prompts

DEFAULTS = SamplingOptions(max_new_tokens=5)


def read(*values):
    return read_prompts([value if isinstance(value, str) else json.dumps(value) for value in values], "f", DEFAULTS)


def test_a_line_without_an_id_gets_its_number_as_id():
    prompts = read({"prompt": "a"}, "", {"id": "x", "prompt_token_ids": [1, 2]}, {"prompt": "c"})
    assert [prompt.id for prompt in prompts] == [1, "x", 4]
    assert prompts[0].text == "a"
    assert prompts[1].token_ids == (1, 2)


def test_a_line_may_override_the_sampling():
    first, second = read({"prompt": "a", "temperature": 0.5, "stop": "b"}, {"prompt": "c"})
    assert (first.sampling.temperature, first.sampling.stop, first.sampling.max_new_tokens) == (0.5, ("b",), 5)
    assert second.sampling == DEFAULTS


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "line 1 of f: not JSON"),
        ("[1]", "not a JSON object"),
        ({}, "either prompt or prompt_token_ids"),
        ({"prompt": "a", "prompt_token_ids": [1]}, "either prompt or prompt_token_ids"),
        ({"prompt": 3}, "prompt is 3; a string is needed"),
        ({"prompt_token_ids": []}, "at least one whole number"),
        ({"prompt_token_ids": [1.5]}, "at least one whole number"),
        ({"prompt_token_ids": [True]}, "at least one whole number"),
        ({"prompt": "a", "id": [1]}, "id is [1]; a string or a whole number"),
        ({"prompt": "a", "temprature": 1}, "key 'temprature' is not understood; the keys are id, prompt"),
        ({"prompt": "a", "top_p": 2}, "top_p is 2; a number from 0 to 1"),
    ],
)
def test_mistakes_are_named_with_their_line(value, words):
    with pytest.raises(UserError) as refusal:
        read(value)
    assert words in str(refusal.value)


def test_an_id_can_be_used_only_once():
    with pytest.raises(UserError, match="line 2 of f: id 'x' was used before"):
        read({"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"})


def test_a_file_without_prompts_is_refused():
    with pytest.raises(UserError, match="f has no prompts"):
        read("", "  ")
