"""Requests that continue a conversation, and their answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from tpi_mpi.common.json_object import shorten
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.serving.dialects.parts import Arguments, Content, Part, Reasoning, ToolCall
from tpi_mpi.serving.dialects.reader import Reader
from tpi_mpi.serving.protocol.choice import Choice, Delta
from tpi_mpi.serving.protocol.fields import Fields, Many, unlimited
from tpi_mpi.serving.protocol.logprobs import Spell, of_chat
from tpi_mpi.serving.refusal import Refusal
from tpi_mpi.tokenizer.conversation import Conversation

_MOST_TOP = 20  # OpenAI's
_ANY_OBJECT = '{"type":"object"}'


class ResponseFormat(BaseModel):
    """What the answer must be: ``text``, ``json_object``, or ``json_schema`` with a schema."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: str
    json_schema: dict | None = None

    def schema(self) -> str | None:
        """The schema as JSON; None for any text. Raises Refusal for another format."""
        match self.type:
            case "text":
                return None
            case "json_object":
                return _ANY_OBJECT
            case "json_schema" if self.json_schema and isinstance(self.json_schema.get("schema"), dict):
                return json.dumps(self.json_schema["schema"])
        formats = "text, json_object or json_schema with a json_schema.schema"
        sentence = f"response_format is {shorten(self.type)}; it must be {formats}"
        raise Refusal(400, sentence, parameter="response_format")


class ChatBody(Fields):
    """A request for the next message of a conversation."""

    messages: Many[dict]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Many[dict] | None = None
    tool_choice: str | dict | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict | None = None

    def conversation(self) -> Conversation:
        """What the chat template is given. Raises UserError or Refusal if it cannot be."""
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        options = {**(self.chat_template_kwargs or {}), **effort}
        return Conversation(tuple(self.messages), tuple(self._tools()), options)

    def tool_names(self) -> list[str]:
        """The functions that may be called. Raises Refusal."""
        return [_name(tool) for tool in self._tools()]

    def _tools(self) -> Sequence[Mapping]:
        """Raises Refusal if calls are demanded: nothing makes a model call."""
        if self.tool_choice not in (None, "auto", "none"):
            choice = "only auto and none are supported"
            raise Refusal(400, f"tool_choice is {shorten(self.tool_choice)}; {choice}", parameter="tool_choice")
        return [] if self.tool_choice == "none" else self.tools or []

    def asked(self) -> object:
        """What the log has of it, if prompts are to be there."""
        return self.messages

    def settled(self, temperature: float) -> SamplingOptions:
        """The options of sampling. temperature: for a request that names none. Raises Refusal."""
        top = self.top_logprobs or 0
        if top > _MOST_TOP or (top and not self.logprobs):
            needed = f"at most {_MOST_TOP}, together with logprobs"
            raise Refusal(400, f"top_logprobs is {top}; {needed}, is possible", parameter="top_logprobs")
        further: dict[str, object] = {"top_logprobs": top}
        if self.max_completion_tokens is not None:
            further["max_new_tokens"] = unlimited(self.max_completion_tokens)
        if self.response_format and (schema := self.response_format.schema()):
            further["json_schema"] = schema
        return self.sampling(temperature, **further)


def _name(tool: Mapping) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if tool.get("type", "function") != "function" or not isinstance(name, str):
        raise Refusal(400, "a tool is no function with a name; other tools are not supported", parameter="tools")
    return name


@dataclass
class ChatStyle:
    """How the messages of an assistant are written.

    readers: what reads each choice. logprobs: whether with log-probabilities. parallel: whether several calls may be
    made at once.
    """

    spell: Spell
    readers: Sequence[Reader]
    logprobs: bool
    parallel: bool
    called: set[int] = field(default_factory=set)
    prefix = "chatcmpl"
    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"

    def opening(self, choice: Choice) -> dict:
        return _entry(choice, {"role": "assistant", "content": ""})

    def chunk(self, choice: Choice, delta: Delta) -> list[dict]:
        entries = [_entry(choice, _delta(part)) for part in self._read(choice, delta)]
        if self.logprobs and delta.tokens:
            entries = entries or [_entry(choice, {})]
            entries[0]["logprobs"] = of_chat(self.spell, delta.tokens)
        if delta.finish_reason:
            entries.append(_entry(choice, {}) | {"finish_reason": self._reason(choice, delta)})
        return entries

    def whole(self, choice: Choice, delta: Delta) -> dict:
        message = _message(self._read(choice, delta))
        logprobs = of_chat(self.spell, delta.tokens) if self.logprobs else None
        own = {"index": choice.index, "message": message, "logprobs": logprobs}
        return own | {"finish_reason": self._reason(choice, delta)}

    def _read(self, choice: Choice, delta: Delta) -> list[Part]:
        reader = self.readers[choice.index]
        parts = reader.push(delta.text) + (reader.finish() if delta.finish_reason else [])
        if any(isinstance(part, ToolCall) for part in parts):
            self.called.add(choice.index)
        return parts if self.parallel else [part for part in parts if getattr(part, "index", 0) == 0]

    def _reason(self, choice: Choice, delta: Delta) -> str | None:
        return "tool_calls" if delta.finish_reason == "stop" and choice.index in self.called else delta.finish_reason


def _entry(choice: Choice, delta: dict) -> dict:
    return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}


def _delta(part: Part) -> dict:
    match part:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case ToolCall(index, id, name):
            call = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}
            return {"tool_calls": [call]}
        case Arguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _message(parts: Sequence[Part]) -> dict:
    """A whole message of the assistant's."""
    content, reasoning, calls = "", "", []
    for part in parts:
        match part:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case ToolCall(_, id, name):
                calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": ""}})
            case Arguments(index, text):
                calls[index]["function"]["arguments"] += text
    message = {"role": "assistant", "content": content if content or not calls else None, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    return message | ({"tool_calls": calls} if calls else {})
