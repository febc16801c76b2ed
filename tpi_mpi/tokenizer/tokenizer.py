"""Text to token ids and back, with the checkpoint's own tokenizer."""

from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.common.errors import CheckpointError, UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.tokenizer.files import CHAT_TEMPLATE, SENTENCEPIECE, SETTINGS, SPECIAL_TOKENS, TOKENIZER_JSON
from tpi_mpi.tokenizer.libraries import JsonTokens, SentencePieces, special_token
from tpi_mpi.tokenizer.spelling import bytes_of


class Tokenizer:
    """The tokenizer of one checkpoint.

    library: what reads its file. Special tokens in a text are recognised.
    settings: tokenizer_config.json, special_tokens_map.json, and the chat template if it is a separate file.
    """

    def __init__(self, library: JsonTokens | SentencePieces, settings: dict):
        self._library, self.settings = library, settings

    @staticmethod
    def is_in(directory: Path) -> bool:
        """Whether there is a tokenizer in a directory."""
        return any((directory / name).is_file() for name in (TOKENIZER_JSON, SENTENCEPIECE))

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Reads the tokenizer in a directory. Raises UserError if there is none, or if it cannot be read."""
        settings = _settings(directory)
        if (directory / TOKENIZER_JSON).is_file():
            return cls(JsonTokens(directory / TOKENIZER_JSON, settings), settings)
        if (directory / SENTENCEPIECE).is_file():
            return cls(SentencePieces(directory / SENTENCEPIECE, settings), settings)
        raise UserError(
            f"{directory} has neither {TOKENIZER_JSON} nor {SENTENCEPIECE}; add the checkpoint's, or give the prompts "
            "as prompt_token_ids in a prompts file"
        )

    def encode(self, text: str, whole: bool = True) -> list[int]:
        """The token ids of a text; if ``whole``, with the special tokens that enclose one, such as an initial <s>."""
        return self._library.encode(text, whole)

    def decode(self, ids: Sequence[int], marks: bool = False) -> str:
        """The text of token ids: without special tokens, or, if ``marks``, with these as they are spelled."""
        return self._library.decode(ids, marks)

    def vocabulary(self) -> dict[int, str]:
        """Every token by its id, as the tokenizer's file spells it."""
        return self._library.vocabulary()

    def bytes_of(self, id: int) -> bytes:
        """The bytes that a token stands for; none if there is no such token."""
        return bytes_of(self._library.spell(id) or "", self._library.byte_level)

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
        return special_token(self.settings, name)


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
