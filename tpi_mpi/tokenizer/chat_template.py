"""Prompts as conversations: the checkpoint's chat template, rendered in a sandbox."""

import json
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tpi_mpi.common.errors import UserError
from tpi_mpi.tokenizer.tokenizer import Tokenizer


def render_chat(tokenizer: Tokenizer, prompt: str, system: str | None = None) -> str:
    """The text that asks the model to answer ``prompt``.

    The template comes with the checkpoint, so it runs in jinja2's sandbox and can access nothing but its arguments.
    Raises UserError if the checkpoint has no template, or if the template fails or refuses the conversation.
    """
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    try:
        template = _environment().from_string(_template(tokenizer))
        return template.render(messages=messages, add_generation_prompt=True, **tokenizer.special_tokens())
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise UserError(f"the checkpoint's chat template failed: {error}") from None


def _template(tokenizer: Tokenizer) -> str:
    template = tokenizer.settings.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if not isinstance(template, str):
        raise UserError("the checkpoint has no chat template; leave out --chat, or write the prompt in its format")
    return template


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
