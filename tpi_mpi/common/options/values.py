"""What users give for some sampling options, in the form in which it is kept: immutable, and the same for the same."""

import json
import re
from collections.abc import Mapping

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import shorten

LARGEST_BIAS = 100


def strings(value: object) -> tuple[str, ...]:
    """One string or several. Raises UserError for anything else, or if one is empty."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise UserError(f"stop is {value!r}; a string or a list of strings is needed")
    if not all(isinstance(text, str) and text for text in texts):
        raise UserError(f"stop is {list(texts)!r}; strings of at least one character are needed")
    return tuple(texts)


def biases(value: object) -> tuple[tuple[int, float], ...]:
    """Token ids, each with its bias, in order: of a mapping, whose keys may be strings as in JSON, or of pairs.

    Raises UserError for anything else, or if an id or a bias is not allowed.
    """
    try:
        pairs = value.items() if isinstance(value, Mapping) else [(id, bias) for id, bias in value]
    except (TypeError, ValueError):
        raise UserError(f"logit_bias is {shorten(value)}; an object with token ids and numbers is needed") from None
    return tuple(sorted({_token_id(id): _bias(id, bias) for id, bias in pairs}.items()))


def _token_id(value: object) -> int:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"logit_bias has the token id {shorten(value)}; a whole number of at least 0 is needed")
    return value


def _bias(id: object, value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -LARGEST_BIAS <= value <= LARGEST_BIAS:
        limits = f"from {-LARGEST_BIAS} to {LARGEST_BIAS}"
        raise UserError(f"logit_bias of token {id} is {shorten(value)}; a number {limits} is needed")
    return float(value)


def schema_text(value: object) -> str | None:
    """A JSON schema as text, without spaces that mean nothing; the order of its keys is kept, since answers have it.

    Raises UserError unless it is an object, or the text of one, or None.
    """
    if value is None:
        return None
    try:
        found = json.loads(value) if isinstance(value, str) else value
        if isinstance(found, Mapping):
            return json.dumps(dict(found), separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        pass
    raise UserError(f"json_schema is {shorten(value)}; a JSON object that is a schema is needed")
