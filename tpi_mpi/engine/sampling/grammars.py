"""Grammars from JSON schemas, over the tokens of a checkpoint, by llguidance."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.units import KIB
from tpi_mpi.engine.sampling.grammar import Grammar
from tpi_mpi.tokenizer.files import TOKENIZER_JSON

# Bytes that the grammar of a sequence takes, at most, in all that was tried.
_BYTES = 512 * KIB
# The space around parts of JSON: none, one, or a line's indentation. Where any is allowed, some models never end it.
_SPACE = r"(\n[ \t]{0,40}| )?"


class Grammars:
    """Makes the grammars of sequences.

    Holds all tokens as a tree, and the tokenizer: about 1.3 KiB of memory for each token.

    directory: which has the checkpoint's tokenizer. vocab_size: of the model. ends: its end-of-text tokens.
    Raises UserError if there can be no grammars.
    """

    def __init__(self, directory: Path, vocab_size: int, ends: Iterable[int]):
        check_grammars(directory)
        self._vocab_size, path = vocab_size, directory / TOKENIZER_JSON
        try:
            text = path.read_text(encoding="utf-8")
            self._tokenizer = _library().LLTokenizer(text, eos_token=list(ends) or None)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be used for a json_schema: {error}") from None

    def memory(self, sequences: int) -> int:
        """Bytes that the grammars of some sequences will take."""
        return sequences * _BYTES

    def of(self, schema: str, ends: Iterable[int]) -> Grammar:
        """The grammar of a schema, for one sequence.

        ends: the tokens by which that one ends. Raises UserError for a schema that cannot be followed.
        """
        matcher = _library().LLMatcher(self._tokenizer, _compiled(schema), log_level=0)
        if matcher.is_error():
            _refuse(matcher.get_error())
        grammar = Grammar(matcher, self._vocab_size, ends, self._tokenizer.eos_tokens)
        if grammar.ended:
            _refuse("no token of this model begins an answer")
        return grammar


def check_grammars(directory: Path) -> None:
    """Raises UserError if no grammars can be made for a checkpoint, whatever the schema."""
    _library()
    if not (directory / TOKENIZER_JSON).is_file():
        raise UserError(f"{directory} has no {TOKENIZER_JSON}, which a json_schema needs; add one, or leave it out")


def check_schema(schema: str) -> None:
    """Raises UserError for a schema that cannot be followed, whatever the tokens."""
    if error := _error(schema):
        _refuse(error)


@lru_cache(maxsize=16)  # many prompts have the same
def _error(schema: str) -> str:
    return _library().LLMatcher.validate_grammar(_compiled(schema))


def _compiled(schema: str) -> str:
    try:
        return _library().LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _SPACE})
    except ValueError as error:
        _refuse(str(error))


def _refuse(reason: str) -> NoReturn:
    raise UserError(f"json_schema cannot be followed: {' '.join(reason.split())}; change the schema")


def _library() -> ModuleType:
    try:
        import llguidance
    except ImportError:
        raise UserError("a json_schema needs llguidance; pip install llguidance") from None
    return llguidance
