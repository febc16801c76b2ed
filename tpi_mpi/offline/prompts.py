"""The prompts file: one JSON object per line, each a prompt to continue."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import shorten
from tpi_mpi.common.options.sampling import SAMPLING_KEYS, SamplingOptions
from tpi_mpi.offline.hashes import HashSet, hash_of

_KEYS = ("id", "prompt", "prompt_token_ids", *SAMPLING_KEYS)


@dataclass(frozen=True)
class Prompt:
    """One prompt to continue, as the user gave it. Either ``text`` or ``token_ids`` is set.

    line: the number of its line; None if it is from no file.
    """

    id: str | int
    text: str | None
    token_ids: tuple[int, ...] | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    line: int | None = None

    @property
    def content(self) -> str | tuple[int, ...]:
        return self.token_ids if self.text is None else self.text


@dataclass(frozen=True)
class Mistake:
    """A line that cannot be done, and the sentence that says why.

    id: the line's own if that is known and new, else the line's number. text: the prompt if that is known.
    """

    id: str | int
    text: str | None
    sentence: str
    line: int | None = None


class PromptsFile:
    """What each line says, found anew at every iteration: a prompt, or a mistake if it is none or repeats an id.

    Empty lines are skipped; a line without an id gets its number as id. defaults: for what a line does not set itself.
    """

    def __init__(self, lines: Iterable[bytes], defaults: SamplingOptions):
        self._lines = lines
        self._defaults = defaults
        self._repeated: set[int] | None = None  # lines that repeat an id, once all have been seen

    def __iter__(self) -> Iterator[Prompt | Mistake]:
        used, repeated = HashSet(), set()

        def is_new(id: str | int, number: int) -> bool:
            if self._repeated is not None:
                return number not in self._repeated
            if used.add(hash_of(id)):
                return True
            repeated.add(number)
            return False

        for number, line in enumerate(self._lines, start=1):
            if line.strip():
                yield _read(line, number, self._defaults, is_new)
        self._repeated = repeated if self._repeated is None else self._repeated


def _read(
    line: bytes, number: int, defaults: SamplingOptions, is_new: Callable[[str | int, int], bool]
) -> Prompt | Mistake:
    """What one line says. is_new: whether no line before has the same id."""
    id, text = number, None
    try:
        values = _values(line)
        text = values["prompt"] if isinstance(values.get("prompt"), str) else None
        id = _id(values.get("id", number), number, is_new)
        return Prompt(id, *_content(values), _sampling(values, defaults), number)
    except UserError as error:
        return Mistake(id, text, str(error), number)


def _values(line: bytes) -> dict[str, object]:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError('not a JSON object such as {"prompt": "..."}')
    return value


def _id(value: object, number: int, is_new: Callable[[str | int, int], bool]) -> str | int:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"id is {shorten(value)}; a string or a whole number is needed")
    if not is_new(value, number):
        raise UserError(f"id {value!r} was used before; every prompt needs its own")
    return value


def _content(values: dict[str, object]) -> tuple[str | None, tuple[int, ...] | None]:
    text, token_ids = values.get("prompt"), values.get("prompt_token_ids")
    if (text is None) == (token_ids is None):
        raise UserError("either prompt or prompt_token_ids is needed")
    if text is not None and not isinstance(text, str):
        raise UserError(f"prompt is {shorten(text)}; a string is needed")
    if token_ids is None:
        return text, None
    whole = isinstance(token_ids, list) and all(type(item) is int for item in token_ids)
    if not whole or not token_ids:
        raise UserError("prompt_token_ids is not a list of at least one whole number")
    return None, tuple(token_ids)


def _sampling(values: dict[str, object], defaults: SamplingOptions) -> SamplingOptions:
    for key in values:
        if key not in _KEYS:
            raise UserError(f"key {key!r} is not understood; the keys are {', '.join(_KEYS)}")
    return defaults.override({key: values[key] for key in SAMPLING_KEYS if key in values})
