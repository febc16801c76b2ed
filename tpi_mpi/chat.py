"""Prompts as conversations: the checkpoint's chat template, in a sandbox."""

import json
from datetime import datetime

from tpi_mpi.errors import UserError
from tpi_mpi.tokenizer import Tokenizer


def chat_text(tokenizer: Tokenizer, prompt: str, system: str | None = None) -> str:
    """The text that asks the model to answer ``prompt``.

    The template comes with the checkpoint, so it runs in jinja2's sandbox and can reach nothing but its arguments.
    Raises UserError where the checkpoint has no template, or the template refuses the conversation.
    """
    import jinja2

    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    try:
        template = _environment().from_string(_template(tokenizer))
        return template.render(messages=messages, add_generation_prompt=True, **tokenizer.special_tokens())
    except jinja2.TemplateError as error:
        raise UserError(f"the checkpoint's chat template failed: {error}") from None


def _template(tokenizer: Tokenizer) -> str:
    template = tokenizer.settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if not isinstance(template, str):
        raise UserError("the checkpoint has no chat template; leave out --chat, or write the prompt in its format")
    return template


def _environment():
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str):
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment
