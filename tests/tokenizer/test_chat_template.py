"""Chat templates: as transformers renders them, and nothing of the machine within their reach."""

import json

import pytest
from templates import CHATML, DEEPSEEK, HARMONY, LLAMA, LLAMA_2, MISTRAL, QWEN

from tpi_mpi.common.errors import CheckpointError, UserError
from tpi_mpi.tokenizer.chat_template import render_chat
from tpi_mpi.tokenizer.conversation import Conversation
from tpi_mpi.tokenizer.tokenizer import Tokenizer

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Öffnet <das> Fenster", "parameters": CITY}}
QUESTION = {"role": "user", "content": "What is <a slab> & why?"}
REPLY = {"role": "assistant", "content": " A file. "}
RESULT = {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": '{"sky": "blue"}'}


def call(arguments: object, **more: object) -> dict:
    function = {"name": "weather", "arguments": arguments}
    return {"role": "assistant", "content": "", **more, "tool_calls": [{"id": "call_1", "function": function}]}


def tokenizer(**settings) -> Tokenizer:
    return Tokenizer(None, settings)


def rendered(template: object, *messages: dict, tools: tuple = (), **options: object) -> str:
    return render_chat(tokenizer(chat_template=template, **SPECIAL), Conversation(messages, tools, options))


@pytest.fixture(scope="module")
def referee(demo):
    """What transformers makes of the same."""
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_file=str(demo / "tokenizer.json"), **SPECIAL)

    def render(template: str, *messages: dict, tools: tuple = (), **options: object) -> str:
        given = {"tools": list(tools) or None, "chat_template": template, **options}
        return theirs.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **given)

    return render


@pytest.mark.parametrize("before", [(), ({"role": "system", "content": "Be brief."},)])
@pytest.mark.parametrize("template", [LLAMA_2, CHATML, QWEN, LLAMA, HARMONY, MISTRAL])
def test_templates_are_rendered_as_transformers_renders_them(referee, template, before):
    said = (*before, QUESTION, REPLY, QUESTION)
    assert rendered(template, *said) == referee(template, *said)


@pytest.mark.parametrize("before", [(), ({"role": "system", "content": "Be brief."},)])
@pytest.mark.parametrize("template", [QWEN, LLAMA, HARMONY, MISTRAL])
def test_calls_of_tools_are_rendered_as_transformers_renders_them(referee, template, before):
    arguments, reasoning = {"city": 'Köln "am" Rhein', "days": [1, 2.5, None]}, {"reasoning_content": "It asks."}
    said = [(*before, QUESTION, call(form, **reasoning), RESULT) for form in (json.dumps(arguments), arguments)]
    own = rendered(template, *said[0], tools=(TOOL,))
    assert own == referee(template, *said[1], tools=(TOOL,))
    assert "weather" in own
    assert '"days": [1, 2.5, null]' in own


def test_options_reach_the_template(referee):
    for template, option in ((QWEN, {"enable_thinking": False}), (HARMONY, {"reasoning_effort": "high"})):
        assert rendered(template, QUESTION, **option) == referee(template, QUESTION, **option)
        assert rendered(template, QUESTION, **option) != rendered(template, QUESTION)


def test_content_comes_in_several_forms():
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    assert rendered(CHATML, {**QUESTION, "content": parts}) == rendered(CHATML, {**QUESTION, "content": "Be brief."})
    for template in (QWEN, LLAMA, HARMONY, MISTRAL):
        said = (QUESTION, call("{}", content=None, refusal=None), RESULT)
        assert rendered(template, *said, tools=(TOOL,)) == rendered(
            template, QUESTION, call("{}"), RESULT, tools=(TOOL,)
        )
    assert "begin|>weather<" in rendered(DEEPSEEK, QUESTION, call("{}", content=None))


def test_an_answer_without_calls_may_say_so():
    said = (QUESTION, {**REPLY, "tool_calls": None}, {**REPLY, "tool_calls": []})
    assert rendered(LLAMA, *said) == rendered(LLAMA, QUESTION, REPLY, REPLY)


def test_a_developer_is_the_system_where_the_template_knows_none():
    developer, system = ({"role": role, "content": "Be brief."} for role in ("developer", "system"))
    assert rendered(QWEN, developer, QUESTION) == rendered(QWEN, system, QUESTION)
    assert "developer" in rendered("{{ messages[0].role }} {# developer #}", developer)


def test_the_demo_has_a_template(demo):
    assert render_chat(Tokenizer.load(demo), Conversation.of("Hi")) == "<|user|>Hi<|end|><|assistant|>"


def test_of_several_templates_the_one_for_tools_or_the_default_is_taken():
    several = [{"name": "tool_use", "template": "with {{ tools | length }}"}, {"name": "default", "template": "none"}]
    assert rendered(several, QUESTION, tools=(TOOL,)) == "with 1"
    assert rendered(several, QUESTION) == "none"
    assert rendered([{"name": "default", "template": "{{ tools[0].type }}"}], QUESTION, tools=(TOOL,)) == "function"


def test_a_template_file_of_its_own_counts(tmp_path, demo):
    (tmp_path / "tokenizer.json").write_bytes((demo / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("Q: {{ messages[0].content }} A:")
    assert render_chat(Tokenizer.load(tmp_path), Conversation.of("Hi")) == "Q: Hi A:"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only one question') }}", "only one question"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 + 'a' }}", "template failed"),
        ("{{ 1 / 0 }}", "template failed"),
        ("{{ open('/etc/passwd').read() }}", "undefined"),
    ],
)
def test_what_a_template_may_not_do_is_one_line(template, words):
    with pytest.raises(UserError, match=words) as refusal:
        rendered(template, QUESTION)
    assert not isinstance(refusal.value, CheckpointError)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "no chat template; write the prompt"),
        ([{"template": "of no name"}, "of no kind"], "no chat template"),
        ("{% for %}", "template cannot be read"),
    ],
)
def test_a_checkpoint_without_a_template_is_the_checkpoints_fault(template, words):
    with pytest.raises(CheckpointError, match=words):
        rendered(template, QUESTION)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            {"role": "nobody"},
            "message 0 has role 'nobody'; the supported ones are system, developer, user, assistant, ",
        ),
        ({"role": "user", "content": 7}, "message 0 has content = 7; a text, or a list of text parts, is needed"),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "message 0 has a content part of type 'image_url'; only ",
        ),
        (call("[1]"), "a tool call of message 0 has arguments = '[1]'; a JSON object is needed"),
        (call("{"), "a tool call of message 0 has arguments = '{'; a JSON object is needed"),
        ({"role": "assistant", "tool_calls": [{}]}, "a tool call of message 0 has no function name; "),
        ({"role": "assistant", "tool_calls": "x"}, "message 0 has tool_calls = 'x'; a list of objects is needed"),
    ],
)
def test_messages_of_another_shape_are_refused(message, sentence):
    with pytest.raises(UserError) as refusal:
        rendered(QWEN, message)
    assert str(refusal.value).startswith(sentence)


def test_what_the_template_cannot_know_is_refused():
    with pytest.raises(UserError, match="the checkpoint's chat template knows no tools; leave them out"):
        rendered(CHATML, QUESTION, tools=(TOOL,))
    with pytest.raises(UserError, match="'messages' is no option of the chat template"):
        rendered(CHATML, QUESTION, messages=[])
