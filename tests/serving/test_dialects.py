"""However an answer is cut into pieces, its reasoning, content and calls are the same, and nothing of it is lost."""

import json
import random
import re
from itertools import groupby

import pytest
from templates import CHATML, DEEPSEEK, HARMONY, LLAMA, LLAMA_2, MISTRAL, QWEN

from tpi_mpi.serving.dialects.dialect import dialect_of
from tpi_mpi.serving.dialects.parts import Arguments, Content, Part, Reasoning, ToolCall
from tpi_mpi.serving.dialects.thinking import opens_reasoning

TOOLS = ("weather", "time")
CALL = '{"name": "weather", "arguments": {"city": "Köln"}}'
OTHER = CALL.replace("weather", "stocks")
WEATHER, TIME = ("weather", '{"city":"Köln"}'), ("time", "{}")


def tagged(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"


def called(text: str, mark: str = "<|call|>") -> str:
    return f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{text}{mark}"


# Texts with what is to be read of them: reasoning, content, calls.
THOUGHTS = [
    ("Just an answer.\n", "", "Just an answer.\n", []),
    ("<think>\nIt is < 3.\n</think>\n\nIt is 2. ", "It is < 3.", "It is 2. ", []),
    ("\n<think>a <b\n\n</thin c</think>d", "a <b\n\n</thin c", "d", []),
    ("<think>\n\n</think>\n\nAt once", "", "At once", []),
    ("<think>never ended </thi\n", "never ended </thi", "", []),
    ("  <thing> is no <think>tag</think>", "", "  <thing> is no <think>tag</think>", []),
    ("", "", "", []),
]
TAGS = [
    *THOUGHTS,
    (tagged(CALL), "", "", [WEATHER]),
    (f"<think>Hm.</think>\nLet me see.\n{tagged(CALL)}\n{tagged(CALL)}\n", "Hm.", "Let me see.", [WEATHER, WEATHER]),
    (f"{tagged(CALL)}\n\nDone\n", "", "Done\n", [WEATHER]),
    (tagged('{"name": "time", "arguments": {}}') + tagged(CALL), "", "", [TIME, WEATHER]),
    (f"<tool_call>{CALL}", "", "", [WEATHER]),
    (f"<tool_call>{CALL}\n{tagged(CALL)}", "", "", [WEATHER, WEATHER]),
    (tagged(CALL.replace("Köln", "</tool_call>")), "", "", [("weather", '{"city":"</tool_call>"}')]),
    (tagged(CALL.replace("Köln", "a\nb")), "", "", [("weather", r'{"city":"a\nb"}')]),
    (tagged(CALL.replace('{"city": "Köln"}', json.dumps('{"city": "Köln"}'))), "", "", [WEATHER]),
    (f"a\n{tagged('{broken')} b", "", f"a\n{tagged('{broken')} b", []),
    (f"a {tagged(OTHER)}{tagged(CALL)}", "", f"a {tagged(OTHER)}", [WEATHER]),
    (f"{tagged('{name')}\n{tagged(CALL)}", "", tagged("{name"), [WEATHER]),
    (tagged('{"open: 1}') + "b", "", tagged('{"open: 1}') + "b", []),
    (tagged(CALL.replace("Köln", r"\ud800")), "", tagged(CALL.replace("Köln", r"\ud800")), []),
    (tagged(CALL.replace('"Köln"', "NaN")), "", tagged(CALL.replace('"Köln"', "NaN")), []),
    (tagged(CALL.replace('{"city": "Köln"}', "[1]")), "", tagged(CALL.replace('{"city": "Köln"}', "[1]")), []),
    ("[" * 9000 + tagged('{"a":' * 9000), "", "[" * 9000 + tagged('{"a":' * 9000), []),
    ("Write <tool_call>, then <tool", "", "Write <tool_call>, then <tool", []),
]
JSON_CALL = CALL.replace("arguments", "parameters")
ANSWERS = [
    *THOUGHTS,
    (JSON_CALL, "", "", [WEATHER]),
    (f"\n<|python_tag|>{JSON_CALL}; {JSON_CALL}\n", "", "", [WEATHER, WEATHER]),
    (f"<think>Hm.</think>\n{JSON_CALL}\nDone; yes", "Hm.", "Done; yes", [WEATHER]),
    (f"I ask. <|python_tag|>{JSON_CALL}", "", "I ask.", [WEATHER]),
    ('{"type": "function", "function": "time", "parameters": {}}', "", "", [TIME]),
    ('{"type": "function", "function": {"name": "time", "parameters": "{}"}}', "", "", [TIME]),
    ('\n{"city": "Köln"} ', "", '\n{"city": "Köln"} ', []),
    ('{"name": "weather", "age": 3} is no call', "", '{"name": "weather", "age": 3} is no call', []),
    ("{} or {", "", "{} or {", []),
    (OTHER, "", OTHER, []),
    (JSON_CALL[:-1], "", JSON_CALL[:-1], []),
    ('<|python_tag|>search.call(query="a")', "", '<|python_tag|>search.call(query="a")', []),
    (f"a {JSON_CALL}", "", f"a {JSON_CALL}", []),
]
ARGUMENTS = '{"city": "Köln"}'
MESSAGES = [
    ("<|channel|>final<|message|>It is 2. <|return|>", "", "It is 2. ", []),
    ("<|channel|>analysis<|message|>a < b<|end|><|start|>assistant<|channel|>final<|message|>c", "a < b", "c", []),
    (f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{called(ARGUMENTS)}", "Hm.", "", [WEATHER]),
    (called(ARGUMENTS, ""), "", "", [WEATHER]),
    (f" to=functions.weather<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>", "", "", [WEATHER]),
    (called('{"city": "<|end|>"}'), "", "", [("weather", '{"city":"<|end|>"}')]),
    (
        f"<|channel|>commentary<|message|>I ask.<|end|><|start|>assistant{called(ARGUMENTS)}"
        "<|start|>assistant<|channel|>final<|message|>Blue.",
        "",
        "I ask.\n\nBlue.",
        [WEATHER],
    ),
    (called("{broken"), "", called("{broken"), []),
    (called('{"a": "b}'), "", called('{"a": "b}'), []),
    (called(ARGUMENTS[:-1], ""), "", called(ARGUMENTS[:-1], ""), []),
    (called(ARGUMENTS).replace("weather", "stocks"), "", called(ARGUMENTS).replace("weather", "stocks"), []),
    (called(ARGUMENTS).split("<|message|>")[0], "", called(ARGUMENTS).split("<|message|>")[0], []),
    ("<|channel|>analysis<|message|>cut off<|en", "cut off<|en", "", []),
    ("<|channel|>anal", "", "", []),
    ("No header <|channel|>final<|message|>but one later", "", "No header \n\nbut one later", []),
    ("to be", "", "to be", []),
    ("", "", "", []),
]
CASES = [
    *(pytest.param(CHATML, *case, id=f"plain-{n}") for n, case in enumerate(THOUGHTS)),
    *(pytest.param(QWEN, *case, id=f"hermes-{n}") for n, case in enumerate(TAGS)),
    *(pytest.param(LLAMA, *case, id=f"llama-{n}") for n, case in enumerate(ANSWERS)),
    *(pytest.param(HARMONY, *case, id=f"harmony-{n}") for n, case in enumerate(MESSAGES)),
]


def read(template: str, pieces: list[str], tools=TOOLS, opened: bool = False) -> list[Part]:
    reader = dialect_of(template).reader(tools, opened)
    return [part for piece in pieces for part in reader.push(piece)] + reader.finish()


def joined(parts: list[Part]) -> list[tuple]:
    """Parts without the ids of calls, those of a kind that follow each other joined."""
    assert all(getattr(part, "text", True) for part in parts)
    kinds = groupby(parts, lambda part: (type(part), getattr(part, "index", None)))
    return [
        (kind, index, "".join(part.name if kind is ToolCall else part.text for part in run))
        for (kind, index), run in kinds
    ]


def text_of(kind: type, parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, kind))


def calls_of(parts: list[Part]) -> list[tuple[str, str]]:
    calls = [part for part in parts if isinstance(part, ToolCall)]
    assert [call.index for call in calls] == list(range(len(calls)))
    arguments = {part.index: part.text for part in parts if isinstance(part, Arguments)}
    return [(call.name, arguments[call.index]) for call in calls]


@pytest.mark.parametrize(("template", "text", "reasoning", "content", "calls"), CASES)
def test_an_answer_is_read(template, text, reasoning, content, calls):
    parts = read(template, [text])
    assert (text_of(Reasoning, parts), text_of(Content, parts), calls_of(parts)) == (reasoning, content, calls)


@pytest.mark.parametrize(("template", "text", "reasoning", "content", "calls"), CASES)
def test_any_cut_gives_the_same_parts(template, text, reasoning, content, calls):
    text = text.replace("[" * 9000, "[" * 9).replace('{"a":' * 9000, '{"a":' * 9)
    whole = joined(read(template, [text]))
    assert joined(read(template, list(text))) == whole
    for cut in range(len(text)):
        assert joined(read(template, [text[:cut], text[cut:]])) == whole
    draw = random.Random(len(text))
    for _ in range(50):
        cuts = sorted(draw.choices(range(len(text) + 1), k=6))
        assert joined(read(template, [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)])) == whole


@pytest.mark.parametrize("template", [CHATML, QWEN, LLAMA])
@pytest.mark.parametrize("begun", ["", "<think>\n"])
def test_a_prompt_may_have_begun_the_reasoning(template, begun):
    for pieces in ([f"{begun}\nHm.\n</think>\n\nYes"], list(f"{begun}Hm.</think>Yes")):
        assert joined(read(template, pieces, opened=True)) == [(Reasoning, None, "Hm."), (Content, None, "Yes")]
    assert joined(read(template, ["</think>Yes"], opened=True)) == [(Content, None, "Yes")]


def test_without_tools_calls_are_text():
    for template, text in ((QWEN, tagged(CALL)), (LLAMA, JSON_CALL), (HARMONY, called(ARGUMENTS))):
        assert joined(read(template, list(text), tools=())) == [(Content, None, text)]


@pytest.mark.parametrize(
    ("template", "pieces", "shown"),
    [
        (QWEN, ["a <", "b", " <tool_", "x"], ["a", " <b", "", " <tool_x"]),
        (QWEN, ["<think>a", "</", "b"], ["a", "", "</b"]),
        (LLAMA, ['{"na', 'tion": ', "1", "}"], ["", '{"nation":', " 1", "}"]),
        (HARMONY, ["<|channel|>final<|message|>a<|", "b", " c"], ["a", "<|b", " c"]),
        (HARMONY, ["<|channel|>commentary to=python<|message|>", "x"], [None, "x"]),
    ],
)
def test_only_what_may_begin_a_mark_is_held_back(template, pieces, shown):
    reader = dialect_of(template).reader(TOOLS, opened=False)
    for piece, text in zip(pieces, shown, strict=True):
        said = "".join(part.text for part in reader.push(piece))
        assert text is None or said == text


def test_calls_have_ids_of_their_own():
    ids = {part.id for part in read(QWEN, [tagged(CALL) * 2]) if isinstance(part, ToolCall)}
    assert len(ids) == 2
    assert all(re.fullmatch(r"call_[a-zA-Z0-9]{24}", id) for id in ids)


def test_a_template_tells_the_dialect():
    own = {QWEN: "hermes", LLAMA: "llama", HARMONY: "harmony"}
    for template in (QWEN, LLAMA, HARMONY, MISTRAL, CHATML, LLAMA_2, DEEPSEEK):
        assert dialect_of(template).name == own.get(template, "plain")
    assert dialect_of("{{ '<tool_call>' + name + '<arg_key>' }}").name == "plain"
    assert dialect_of("{{ '<|python_tag|>' }}").name == "llama"


def test_a_prompt_tells_whether_it_begins_the_reasoning():
    assert opens_reasoning("<|Assistant|><think>\n")
    assert not opens_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not opens_reasoning("What is <think>?<|im_start|>assistant\n")
