"""What has been said, in memory and in files."""

import json
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.files import replace_file
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.dialogue.characters import printable

_SYSTEM, _USER, _ASSISTANT = "system", "user", "assistant"


class Conversation:
    """A system prompt, or None, and the texts that a person and the model have said in turn, the person first.

    Neither holds characters that must not reach a terminal.
    """

    def __init__(self, system: str | None = None):
        self._turns: list[str] = []
        self.tell_system(system)

    def tell_system(self, text: str | None) -> None:
        """Replaces the system prompt; none if there is no text."""
        self.system = printable(text) if text else None

    def ask(self, text: str) -> None:
        """Adds a question. One that has no answer is replaced."""
        self._drop_unanswered()
        self._turns.append(printable(text))

    def answer(self, text: str) -> None:
        """Adds the answer to the last question, if there is any text."""
        if text:
            self._turns.append(printable(text))

    def retry(self) -> None:
        """Takes back the answer to the last question. Raises UserError if there is no question."""
        if not self._turns:
            raise UserError("nothing has been asked yet that could be asked again")
        del self._turns[(len(self._turns) - 1) // 2 * 2 + 1 :]

    def undo(self) -> None:
        """Takes back the last question and its answer. Raises UserError if there is none."""
        self.retry()
        self._turns.pop()

    def forget(self) -> None:
        """Takes back everything but the system prompt."""
        self._turns.clear()

    def messages(self) -> list[dict[str, str]]:
        """All of it, as the server's protocol wants it."""
        system = [{"role": _SYSTEM, "content": self.system}] if self.system else []
        return system + [{"role": _role(index), "content": text} for index, text in enumerate(self._turns)]

    def save(self, path: Path) -> None:
        """Writes a file: JSON, or a text for people if its name ends with .md. Raises UserError if that fails."""
        if path.suffix == ".md":
            parts = [f"## {message['role'].capitalize()}\n\n{message['content']}\n" for message in self.messages()]
            replace_file(path, "\n".join(parts))
        elif path.suffix == ".json":
            replace_file(path, json.dumps({"messages": self.messages()}, ensure_ascii=False, indent=2) + "\n")
        else:
            raise UserError(f"{path} ends neither with .json nor with .md; give it one of these ends")

    def load(self, path: Path) -> None:
        """Replaces everything by what :meth:`save` wrote as JSON. Raises UserError if the file is none of those."""
        source = JsonObject.load(path)
        messages = [_checked(source, message) for message in _list(source)]
        system = messages.pop(0)[1] if messages and messages[0][0] == _SYSTEM else None
        for index, (role, _) in enumerate(messages):
            if role != _role(index):
                source.refuse(f"has {role!r} where {_role(index)!r} is to speak; the two must take turns")
        self.tell_system(system)
        self._turns = [printable(text) for _, text in messages]

    def _drop_unanswered(self) -> None:
        if len(self._turns) % 2:
            self._turns.pop()


def _role(index: int) -> str:
    return (_USER, _ASSISTANT)[index % 2]


def _list(source: JsonObject) -> list:
    messages = source.get("messages")
    if not isinstance(messages, list):
        source.refuse("has no list of messages; a file that /save has written as JSON is needed")
    return messages


def _checked(source: JsonObject, message: object) -> tuple[str, str]:
    """The role and the text of a message in a file."""
    found = (message.get("role"), message.get("content")) if isinstance(message, dict) else ()
    if not found or not all(isinstance(value, str) for value in found):
        source.refuse("has a message without a role and a text")
    return found
