"""What users ask for becomes a request that the model can do, or is refused in a sentence."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tpi_mpi.common.errors import CheckpointError, UserError
from tpi_mpi.common.options.sampling import DEFAULT_NEW_TOKENS, SamplingOptions
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.request import Token
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.tokenizer.conversation import Conversation, asked

CONTEXT = 512
PLAIN = SamplingOptions()


@pytest.fixture
def config(demo) -> ModelConfig:
    return ModelConfig.load(demo / "config.json")


@pytest.fixture
def intake(demo, config) -> Intake:
    return Intake(demo, config)


@pytest.fixture
def speechless(tmp_path, config) -> Intake:
    """Of a checkpoint that has no tokenizer."""
    return Intake(tmp_path, config)


def of(count: int) -> list[int]:
    return [1] * count


def test_text_becomes_tokens_and_tokens_become_text(intake):
    request = intake.request("What is a slab?", PLAIN)
    completion = intake.completion(intake.request([1], PLAIN))
    pieces = [completion.push(Token(id, -1.0, 0.1, None)) for id in request.token_ids]
    assert "".join(pieces) + completion.finish() == "What is a slab?"


def test_a_chat_is_put_into_the_template(intake):
    chat = asked("Hi", None)
    assert intake.rendered(chat) == "<|user|>Hi<|end|><|assistant|>"
    assert intake.request(chat, PLAIN).token_ids == intake.request(intake.rendered(chat), PLAIN).token_ids
    assert asked([5, 6], "ignored") == [5, 6]


def test_special_tokens_are_part_of_a_text_where_they_are_asked_for(intake):
    request = intake.request("<|user|>Hi<|end|>", PLAIN)
    (end,) = intake.request("<|end|>", PLAIN).token_ids
    for ends, shown in ((frozenset(), "<|user|>Hi<|end|>"), (frozenset([end]), "<|user|>Hi")):
        completion = intake.completion(replace(request, eos_token_ids=ends), marks=True)
        assert "".join(completion.push(Token(id, -1.0, 0.1, None)) for id in request.token_ids) == shown


def test_a_conversation_that_the_template_refuses_is_its_own_mistake(intake):
    for conversation in (Conversation(({"role": "nobody"},)), Conversation.of("Hi", system=7)):
        with pytest.raises(UserError) as refusal:
            intake.request(conversation, PLAIN)
        assert not isinstance(refusal.value, CheckpointError)


def test_what_is_left_open_is_settled(intake):
    sampling = intake.request([1], PLAIN).sampling
    assert sampling.max_new_tokens == DEFAULT_NEW_TOKENS
    assert sampling.seed != intake.request([1], PLAIN).sampling.seed
    assert intake.request([1], SamplingOptions(seed=3)).sampling.seed == 3
    assert intake.request(of(CONTEXT - 2), PLAIN).sampling.max_new_tokens == 2


def test_the_checkpoints_settings_hold_where_nothing_else_is_said(tmp_path, config):
    values = {"eos_token_id": [3, 4], "top_k": 7, "top_p": 0.5, "min_p": 0.1, "temperature": 9.0}
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    request = Intake(tmp_path, config).request([1], SamplingOptions(top_p=1))
    sampling = request.sampling
    assert (sampling.top_k, sampling.top_p, sampling.min_p, sampling.temperature) == (7, 1, 0.1, 0)
    assert request.eos_token_ids == {3, 4}


def test_settings_that_make_no_sense_are_refused_at_once(tmp_path, config):
    (tmp_path / "generation_config.json").write_text('{"top_p": 7}')
    with pytest.raises(UserError, match=r"generation_config\.json cannot be used: top_p is 7; a number from 0 to 1"):
        Intake(tmp_path, config)


def test_a_scored_prompt_may_fill_the_whole_context(intake):
    only = SamplingOptions(max_new_tokens=0, prompt_logprobs=True)
    assert intake.request(of(CONTEXT), only).length == CONTEXT
    with pytest.raises(UserError, match="the prompt has 513 tokens, and the model's context of 512 leaves no room"):
        intake.request(of(CONTEXT + 1), only)


@pytest.mark.parametrize(
    ("content", "sampling", "sentence"),
    [
        ("", PLAIN, "the prompt is empty; at least one token is needed"),
        ([], PLAIN, "the prompt is empty; at least one token is needed"),
        ([5, -3], PLAIN, "token id -3 is negative"),
        ([5, 1024], PLAIN, "token id 1024 is not below the model's vocab_size 1024"),
        ([5, 1.0], PLAIN, "the prompt's token ids are not all whole numbers"),
        ("a\ud800", PLAIN, "the prompt has half a surrogate pair, which is no character; leave it out"),
        (
            [5],
            SamplingOptions(logit_bias={1024: 1}),
            "logit_bias: token id 1024 is not below the model's vocab_size 1024",
        ),
        (
            [5],
            SamplingOptions(json_schema={"type": "array", "uniqueItems": True}),
            'json_schema cannot be followed: Unimplemented keys: ["uniqueItems"]; change the schema',
        ),
        (of(512), PLAIN, "the prompt has 512 tokens, and the model's context of 512 leaves no room; shorten it"),
        (
            of(12),
            SamplingOptions(501),
            "12 prompt tokens and 501 new ones exceed the model's context of 512; give max_new_tokens 500 or fewer",
        ),
    ],
)
def test_what_cannot_be_done_is_named(intake, content, sampling, sentence):
    with pytest.raises(UserError) as refusal:
        intake.request(content, sampling)
    assert str(refusal.value) == sentence
    assert not isinstance(refusal.value, CheckpointError)


def test_a_sequence_longer_than_the_memory_is_refused(intake):
    intake.longest = 20
    assert intake.request(of(12), SamplingOptions(9)).length == 20
    assert intake.request(of(12), PLAIN).length == 20
    assert intake.request(of(20), SamplingOptions(0, prompt_logprobs=True)).length == 20
    with pytest.raises(UserError, match="12 prompt tokens and 10 new ones exceed this run's memory of 20 positions"):
        intake.request(of(12), SamplingOptions(10))
    for sampling in (PLAIN, SamplingOptions(0, prompt_logprobs=True)):
        with pytest.raises(UserError, match="has 21 tokens, and this run's memory of 20 positions leaves no room"):
            intake.request(of(21), sampling)


def test_token_ids_need_no_tokenizer_but_text_and_stop_strings_do(speechless):
    completion = speechless.completion(speechless.request([1, 2], PLAIN))
    completion.push(Token(3, -1.0, 0.1, "length"))
    assert (completion.text, completion.finish_reason) == ("", "length")
    for content, sampling in (("a", PLAIN), ([1], SamplingOptions(stop=("x",)))):
        with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor tokenizer\.model"):
            speechless.request(content, sampling)


def test_a_chat_needs_a_template(tmp_path, demo, config):
    (tmp_path / "tokenizer.json").write_bytes(Path(demo / "tokenizer.json").read_bytes())
    with pytest.raises(CheckpointError, match="has no chat template"):
        Intake(tmp_path, config).request(Conversation.of("a"), PLAIN)


def test_a_schema_needs_a_tokenizer_that_llguidance_reads(speechless, tmp_path):
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, which a json_schema needs"):
        speechless.request([1], SamplingOptions(json_schema={"type": "object"}))


def test_a_schema_needs_llguidance(intake, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(CheckpointError, match="a json_schema needs llguidance; pip install llguidance"):
        intake.request([1], SamplingOptions(json_schema={"type": "object"}))
