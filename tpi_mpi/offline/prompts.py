"""The prompts file: one JSON object per line, each a prompt to continue."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options import SAMPLING_KEYS, SamplingOptions


@dataclass(frozen=True)
class Prompt:
    """One prompt to continue, as the user gave it. Either ``text`` or ``token_ids`` is set."""

    id: str | int
    text: str | None
    token_ids: tuple[int, ...] | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)


def read_prompts(lines: Iterable[str], origin: str, defaults: SamplingOptions) -> list[Prompt]:
    """Reads a whole prompts file. Empty lines are skipped; a line without an id gets its line number as id.

    origin: the file's name, for messages. defaults: for what a line does not set itself.
    Raises UserError, naming the line, for the first one that is not understood or repeats an id; and for a file
    without prompts.
    """
    prompts: dict[str | int, Prompt] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompt = _read_prompt(line, number, defaults)
            if prompt.id in prompts:
                raise UserError(f"id {prompt.id!r} was used before; every prompt needs its own")
        except UserError as error:
            raise UserError(f"line {number} of {origin}: {error}") from None
        prompts[prompt.id] = prompt
    if not prompts:
        raise UserError(f"{origin} has no prompts; one JSON object per line is needed")
    return list(prompts.values())


def _read_prompt(line: str, number: int, defaults: SamplingOptions) -> Prompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError('not a JSON object such as {"prompt": "..."}')
    known = ("id", "prompt", "prompt_token_ids", *SAMPLING_KEYS)
    for key in value:
        if key not in known:
            raise UserError(f"key {key!r} is not understood; the keys are {', '.join(known)}")
    sampling = defaults.override({key: value[key] for key in SAMPLING_KEYS if key in value})
    return Prompt(_id(value.get("id", number)), *_content(value), sampling)


def _id(value: object) -> str | int:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"id is {value!r}; a string or a whole number is needed")
    return value


def _content(value: dict[str, object]) -> tuple[str | None, tuple[int, ...] | None]:
    text, token_ids = value.get("prompt"), value.get("prompt_token_ids")
    if (text is None) == (token_ids is None):
        raise UserError("either prompt or prompt_token_ids is needed")
    if text is not None and not isinstance(text, str):
        raise UserError(f"prompt is {text!r}; a string is needed")
    if token_ids is None:
        return text, None
    whole = isinstance(token_ids, list) and all(type(item) is int for item in token_ids)
    if not whole or not token_ids:
        raise UserError("prompt_token_ids is not a list of at least one whole number")
    return None, tuple(token_ids)
