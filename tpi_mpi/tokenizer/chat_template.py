"""Conversations as text: the checkpoint's chat template, rendered in a sandbox."""

import json
from datetime import datetime
from functools import lru_cache

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tpi_mpi.common.errors import CheckpointError, UserError
from tpi_mpi.tokenizer.conversation import Conversation
from tpi_mpi.tokenizer.messages import messages_for
from tpi_mpi.tokenizer.tokenizer import Tokenizer

# Variables that a template is given in any case.
_OWN = ("messages", "tools", "documents", "add_generation_prompt")


def render_chat(tokenizer: Tokenizer, conversation: Conversation) -> str:
    """The text that asks the model for the next message of a conversation.

    The template comes with the checkpoint, so it runs in jinja2's sandbox and can access nothing but its arguments.
    Raises CheckpointError if the checkpoint has no template, or none that can be read; UserError if the template fails
    or refuses the conversation.
    """
    template = tokenizer.chat_template(tools=bool(conversation.tools))
    _check(template, conversation)
    given = {
        "messages": messages_for(template, conversation),
        "tools": list(conversation.tools) or None,
        "documents": None,
        "add_generation_prompt": True,
    }
    compiled = _compiled(template)
    try:
        return compiled.render({**tokenizer.special_tokens(), **conversation.options, **given})
    except Exception as error:  # it is a program, which can fail in any way
        raise UserError(f"the checkpoint's chat template failed: {error}") from None


def _check(template: str, conversation: Conversation) -> None:
    """Raises UserError if the template is asked for what it cannot know."""
    if conversation.tools and "tools" not in template:
        raise UserError("the checkpoint's chat template knows no tools; leave them out, or use a model that calls them")
    if taken := sorted(conversation.options.keys() & set(_OWN)):
        raise UserError(f"{taken[0]!r} is no option of the chat template; it follows from the conversation")


@lru_cache(maxsize=4)
def _compiled(template: str) -> jinja2.Template:
    try:
        return _environment().from_string(template)
    except jinja2.TemplateError as error:
        raise CheckpointError(f"the checkpoint's chat template cannot be read: {error}") from None


def _environment() -> ImmutableSandboxedEnvironment:
    """A sandbox with the functions and tags that transformers offers to templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = _to_json
    return environment


class _GenerationTag(Extension):
    """``{% generation %}``: marks the assistant's words for training, and has no effect here."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str):
    raise jinja2.TemplateError(message)


def _to_json(value: object, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """JSON that, unlike that of jinja2's own filter, leaves characters special to HTML unescaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
