"""The libraries that read tokenizers' files, each behind the same methods."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.tokenizer.spelling import BYTE_LEVEL


def special_token(settings: Mapping[str, object], name: str) -> str | None:
    """The text of a special token such as bos_token; None if the settings have none of that name."""
    value = settings.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


class JsonTokens:
    """A tokenizer.json, by the tokenizers library. Raises UserError, on construction, if it cannot be read.

    byte_level: whether the characters of its tokens stand for bytes.
    """

    def __init__(self, path: Path, settings: Mapping[str, object]):
        import tokenizers

        try:
            self._library = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more specific
            raise UserError(f"{path} cannot be read: {error}") from None
        self._library.no_truncation()
        self._library.no_padding()
        self._first = self._library.token_to_id(special_token(settings, "bos_token") or "")
        self._wanted = settings.get("add_bos_token")
        self._added = self._library.encode("").ids[:1] == [self._first]
        self.byte_level = all(self._library.token_to_id(token) is not None for token in BYTE_LEVEL)

    def encode(self, text: str, whole: bool) -> list[int]:
        # Of batches alone, the library lets other threads go on meanwhile.
        ids = self._library.encode_batch([text], add_special_tokens=whole)[0].ids
        if not whole or self._first is None or self._wanted is None:
            return ids
        if self._wanted:
            return ids if ids[:1] == [self._first] else [self._first, *ids]
        return ids[1:] if self._added else ids  # a text may itself begin with that token

    def decode(self, ids: Sequence[int], marks: bool) -> str:
        return self._library.decode(list(ids), skip_special_tokens=not marks)

    def vocabulary(self) -> dict[int, str]:
        return {id: token for token, id in self._library.get_vocab(with_added_tokens=True).items()}

    def spell(self, id: int) -> str | None:
        return self._library.id_to_token(id)


class SentencePieces:
    """A tokenizer.model, of checkpoints older than tokenizer.json, by sentencepiece.

    Raises UserError, on construction, if it cannot be read, or if sentencepiece is not installed.
    """

    byte_level = False

    def __init__(self, path: Path, settings: Mapping[str, object]):
        try:
            import sentencepiece
        except ImportError:
            raise UserError(
                f"{path.parent} has only a sentencepiece tokenizer.model; pip install sentencepiece to read it"
            ) from None
        try:
            self._library = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None
        size = self._library.vocab_size()
        control = [id for id in range(size) if self._library.is_control(id)]
        added = {entry["content"]: int(id) for id, entry in settings.get("added_tokens_decoder", {}).items()}
        self._special = {**{self._library.id_to_piece(id): id for id in control}, **added}
        self._spelled = {id: token for token, id in self._special.items()}
        self._added = {id: token for token, id in added.items()}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._boundaries = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._begins = settings.get("add_bos_token", True) and self._library.bos_id() >= 0

    def encode(self, text: str, whole: bool) -> list[int]:
        ids = [self._library.bos_id()] if whole and self._begins else []
        for part in self._boundaries.split(text) if self._special else [text]:
            ids += [self._special[part]] if part in self._special else self._library.encode(part)
        return ids

    def decode(self, ids: Sequence[int], marks: bool) -> str:
        known = [id for id in ids if id in self._spelled or id < self._library.vocab_size()]
        if not marks:
            return self._library.decode([id for id in known if id not in self._spelled])
        runs = groupby(known, key=self._spelled.get)
        return "".join(mark * len(list(run)) if mark else self._library.decode(list(run)) for mark, run in runs)

    def vocabulary(self) -> dict[int, str]:
        return {id: self._library.id_to_piece(id) for id in range(self._library.vocab_size())} | self._added

    def spell(self, id: int) -> str | None:
        known = id < self._library.vocab_size()
        return self._added.get(id) or (self._library.id_to_piece(id) if known else None)
