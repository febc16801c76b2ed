"""The messages of a conversation as chat templates expect them, which is not quite how OpenAI's protocol has them."""

import json
import re
from collections.abc import Mapping

from tpi_mpi.common.json_object import JsonObject, shorten
from tpi_mpi.tokenizer.conversation import Conversation

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may say something."""

# Templates that tell a message without content from one with an empty text.
_TELLS_NONE = re.compile(r"\bcontent\b['\"\]]* is (not )?none")


def messages_for(template: str, conversation: Conversation) -> list[dict]:
    """What a template is given as ``messages``.

    Raises UserError, which names the message by its number, for one that is not of the protocol's shape.
    """
    return [_message(template, JsonObject(said, f"message {n}")) for n, said in enumerate(conversation.messages)]


def _message(template: str, said: JsonObject) -> dict:
    role = said.choice("role", ROLES)
    if role == "developer" and "developer" not in template:
        role = "system"
    others = {key: value for key, value in said.values.items() if value is not None and value != []}
    message = {**others, "role": role, "content": _content(template, said)}
    return message | _reasoning(said) | ({"tool_calls": _calls(said)} if "tool_calls" in others else {})


def _content(template: str, said: JsonObject) -> str | None:
    content = said.get("content")
    if isinstance(content, list):
        return "".join(_text(said, part) for part in content)
    if content is None:
        return None if _TELLS_NONE.search(template) else ""
    if not isinstance(content, str):
        said.refuse(f"has content = {shorten(content)}; a text, or a list of text parts, is needed")
    return content


def _text(said: JsonObject, part: object) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        said.refuse(f"has a content part of type {shorten(kind)}; only {{'type': 'text', 'text': ...}} is understood")
    return part["text"]


def _reasoning(said: JsonObject) -> dict:
    """The reasoning under each of the names that templates have for it."""
    reasoning = said.get("reasoning_content")
    return {} if reasoning is None else {"reasoning_content": reasoning, "thinking": reasoning}


def _calls(said: JsonObject) -> list[dict]:
    calls = said.get("tool_calls")
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        said.refuse(f"has tool_calls = {shorten(calls)}; a list of objects is needed")
    return [_call(JsonObject(call, f"a tool call of {said.origin}")) for call in calls]


def _call(call: JsonObject) -> dict:
    function = call.object("function")
    if not isinstance(function.get("name"), str):
        call.refuse("has no function name; {'function': {'name': ..., 'arguments': ...}} is needed")
    return {**call.values, "function": {**function, "arguments": _arguments(call, function.get("arguments"))}}


def _arguments(call: JsonObject, arguments: object) -> dict:
    """The arguments, which the protocol has as JSON, as an object."""
    try:
        values = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, Mapping):
        call.refuse(f"has arguments = {shorten(arguments)}; a JSON object is needed")
    return dict(values)
