"""Text to token ids and back, with the checkpoint's own tokenizer."""

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from tpi_mpi.common.errors import CheckpointError, UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.tokenizer.files import CHAT_TEMPLATE, SENTENCEPIECE, SETTINGS, SPECIAL_TOKENS, TOKENIZER_JSON


class Tokenizer:
    """The tokenizer of one checkpoint.

    encode_text: (text, whole) to token ids, as :meth:`encode`. Special tokens in the text are recognised.
    decode_ids: (token ids, marks) to text, as :meth:`decode`. vocabulary: no argument to every token by its id.
    settings: tokenizer_config.json, special_tokens_map.json, and the chat template if it is a separate file.
    """

    def __init__(self, encode_text: Callable, decode_ids: Callable, vocabulary: Callable, settings: dict):
        self._encode, self._decode, self._vocabulary = encode_text, decode_ids, vocabulary
        self.settings = settings

    @staticmethod
    def is_in(directory: Path) -> bool:
        """Whether there is a tokenizer in a directory."""
        return any((directory / name).is_file() for name in (TOKENIZER_JSON, SENTENCEPIECE))

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Reads the tokenizer in a directory. Raises UserError if there is none, or if it cannot be read."""
        settings = _settings(directory)
        if (directory / TOKENIZER_JSON).is_file():
            return cls(*_from_json(directory / TOKENIZER_JSON, settings), settings)
        if (directory / SENTENCEPIECE).is_file():
            return cls(*_from_sentencepiece(directory / SENTENCEPIECE, settings), settings)
        raise UserError(
            f"{directory} has neither {TOKENIZER_JSON} nor {SENTENCEPIECE}; add the checkpoint's, or give the prompts "
            "as prompt_token_ids in a prompts file"
        )

    def encode(self, text: str, whole: bool = True) -> list[int]:
        """The token ids of a text; if ``whole``, with the special tokens that enclose one, such as an initial <s>."""
        return self._encode(text, whole)

    def decode(self, ids: Sequence[int], marks: bool = False) -> str:
        """The text of token ids: without special tokens, or, if ``marks``, with these as they are spelled."""
        return self._decode(ids, marks)

    def vocabulary(self) -> dict[int, str]:
        """Every token by its id, as the tokenizer's file spells it."""
        return self._vocabulary()

    def special_tokens(self) -> dict[str, str]:
        """The special tokens by name, such as bos_token, as chat templates need them."""
        return {name: token for name in self.settings if name.endswith("_token") and (token := self.special(name))}

    def chat_template(self, tools: bool = False) -> str:
        """The template for conversations, with tools or without. Raises CheckpointError if there is none."""
        template = self.settings.get("chat_template")
        if isinstance(template, list):  # several named templates
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = (named.get("tool_use") if tools else None) or named.get("default")
        if not isinstance(template, str):
            raise CheckpointError(
                "the checkpoint has no chat template; write the prompt in the model's own format, and leave out --chat"
            )
        return template

    def special(self, name: str) -> str | None:
        """The text of a special token such as bos_token; None if the tokenizer has none of that name."""
        return _special(self.settings, name)


def _settings(directory: Path) -> dict:
    settings: dict = {}
    for name in (SPECIAL_TOKENS, SETTINGS):
        path = directory / name
        if path.is_file():
            settings |= JsonObject.load(path).values
    template = directory / CHAT_TEMPLATE
    if template.is_file():
        try:
            settings["chat_template"] = template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{template} cannot be read: {error}") from None
    return settings


def _special(settings: dict, name: str) -> str | None:
    value = settings.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _from_json(path: Path, settings: dict) -> tuple[Callable, Callable, Callable]:
    """encode_text, decode_ids and vocabulary by the tokenizers library, which reads tokenizer.json."""
    import tokenizers

    try:
        library = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"{path} cannot be read: {error}") from None
    library.no_truncation()
    library.no_padding()
    first = library.token_to_id(_special(settings, "bos_token") or "")
    wanted = settings.get("add_bos_token")

    def encode(text: str, whole: bool) -> list[int]:
        ids = library.encode(text, add_special_tokens=whole).ids
        if not whole or first is None or wanted is None:
            return ids
        rest = ids[1:] if ids[:1] == [first] else ids
        return [first, *rest] if wanted else rest

    def vocabulary() -> dict[int, str]:
        return {id: token for token, id in library.get_vocab(with_added_tokens=True).items()}

    def decode(ids: Sequence[int], marks: bool) -> str:
        return library.decode(list(ids), skip_special_tokens=not marks)

    return encode, decode, vocabulary


def _from_sentencepiece(path: Path, settings: dict) -> tuple[Callable, Callable, Callable]:
    """encode_text, decode_ids and vocabulary by sentencepiece, for checkpoints older than tokenizer.json."""
    try:
        import sentencepiece
    except ImportError:
        raise UserError(
            f"{path.parent} has only a sentencepiece tokenizer.model; pip install sentencepiece to read it"
        ) from None
    try:
        library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    added = {entry["content"]: int(id) for id, entry in settings.get("added_tokens_decoder", {}).items()}
    control = [id for id in range(library.vocab_size()) if library.is_control(id)]
    special = {**{library.id_to_piece(id): id for id in control}, **added}
    boundaries = re.compile("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")")

    def encode(text: str, whole: bool) -> list[int]:
        ids = [library.bos_id()] if whole and settings.get("add_bos_token", True) and library.bos_id() >= 0 else []
        for part in boundaries.split(text) if special else [text]:
            ids += [special[part]] if part in special else library.encode(part)
        return ids

    def vocabulary() -> dict[int, str]:
        pieces = {id: library.id_to_piece(id) for id in range(library.vocab_size())}
        return pieces | {id: token for token, id in added.items()}

    spelled = {id: token for token, id in special.items()}

    def decode(ids: Sequence[int], marks: bool) -> str:
        known = [id for id in ids if id in spelled or id < library.vocab_size()]
        if not marks:
            return library.decode([id for id in known if id not in spelled])
        runs = groupby(known, key=spelled.get)
        return "".join(mark * len(list(run)) if mark else library.decode(list(run)) for mark, run in runs)

    return encode, decode, vocabulary
