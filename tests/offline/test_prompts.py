"""The prompts file: what a line may contain, and what is said when it contains anything else."""

import json

import pytest

from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.offline.prompts import Mistake, PromptsFile

DEFAULTS = SamplingOptions(max_new_tokens=5)


def read(*values):
    lines = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    return list(PromptsFile(lines, DEFAULTS))


def test_a_line_without_an_id_gets_its_number_as_id():
    prompts = read({"prompt": "a"}, b"", {"id": "x", "prompt_token_ids": [1, 2]}, {"prompt": "c"})
    assert [prompt.id for prompt in prompts] == [1, "x", 4]
    assert [prompt.line for prompt in prompts] == [1, 3, 4]
    assert [prompt.content for prompt in prompts] == ["a", (1, 2), "c"]


def test_a_line_may_override_the_sampling():
    first, second = read({"prompt": "a", "temperature": 0.5, "stop": "b"}, {"prompt": "c"})
    assert (first.sampling.temperature, first.sampling.stop, first.sampling.max_new_tokens) == (0.5, ("b",), 5)
    assert second.sampling == DEFAULTS
    (scored,) = read({"prompt": "a", "max_new_tokens": 0, "prompt_logprobs": True, "top_logprobs": 3})
    assert (scored.sampling.max_new_tokens, scored.sampling.top_logprobs) == (0, 3)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ('{"prompt": "Straße"}'.encode("latin-1"), "not UTF-8: "),
        (b"[1]", "not a JSON object"),
        ({}, "either prompt or prompt_token_ids"),
        ({"prompt": "a", "prompt_token_ids": [1]}, "either prompt or prompt_token_ids"),
        ({"prompt": 3}, "prompt is 3; a string is needed"),
        ({"prompt_token_ids": []}, "at least one whole number"),
        ({"prompt_token_ids": [1.5]}, "at least one whole number"),
        ({"prompt_token_ids": [True]}, "at least one whole number"),
        ({"prompt": "a", "id": [1]}, "id is [1]; a string or a whole number"),
        ({"prompt": "a", "temprature": 1}, "key 'temprature' is not understood; the keys are id, prompt"),
        ({"prompt": "a", "top_p": 2}, "top_p is 2; a number from 0 to 1"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens is 0; at least 1 is needed"),
    ],
)
def test_mistakes_are_told(value, words):
    good, mistake = read({"prompt": "good"}, value)
    assert good.text == "good"
    assert words in mistake.sentence
    assert (mistake.line, mistake.id) == (2, 2)


def test_a_mistake_has_what_could_be_read():
    assert read({"id": "x", "prompt": "a", "prompt_token_ids": [1]}) == [
        Mistake("x", "a", "either prompt or prompt_token_ids is needed", 1)
    ]


def test_an_id_can_be_used_only_once():
    lines = {"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}, {"id": "1", "prompt": "c"}, {"id": 1, "prompt": "d"}
    first, second, *others = read(*lines)
    assert first.id == "x"
    assert second == Mistake(2, "b", "id 'x' was used before; every prompt needs its own", 2)
    assert [other.id for other in others] == ["1", 1]
    assert read({"id": 2, "prompt": "a"}, {"prompt": "b"})[1].sentence.startswith("id 2 was used before")
