"""What lines that begin with a slash do."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.dialogue.conversation import Conversation
from tpi_mpi.dialogue.settings import Settings

SLASH = "/"


@dataclass(frozen=True)
class Outcome:
    """What a line leads to. said: what to tell the person. asks: whether the last question wants an answer now.
    leaves: whether the chat is over.
    """

    said: str = ""
    asks: bool = False
    leaves: bool = False


@dataclass(frozen=True)
class _Command:
    """run: takes what stands after the command's name. argument: what that is, for people. phrase: what it does."""

    run: Callable[[str], Outcome]
    argument: str
    phrase: str


class Commands:
    """The commands of one chat, and what they change."""

    def __init__(self, conversation: Conversation, settings: Settings):
        self._conversation, self._settings = conversation, settings
        self._commands = {
            "new": _Command(self._new, "", "forget what was said, but not the system prompt"),
            "system": _Command(self._system, "TEXT", "replace the system prompt; without TEXT, do without one"),
            "save": _Command(self._save, "FILE", "write the conversation to a .json file, or as a text to a .md file"),
            "load": _Command(self._load, "FILE", "go on with a conversation that was saved as .json"),
            "retry": _Command(self._retry, "", "have the last question answered once more"),
            "undo": _Command(self._undo, "", "take back the last question and its answer"),
            "set": _Command(self._set, "NAME VALUE", "set temperature, top_p, top_k, seed or max_tokens"),
            "help": _Command(self._help, "", "list the commands"),
            "quit": _Command(self._quit, "", "leave; so does Ctrl-D"),
        }

    @property
    def names(self) -> list[str]:
        """As they are typed: with the slash."""
        return [SLASH + name for name in self._commands]

    def take(self, line: str) -> Outcome:
        """Does what a line says: a question, or a command. Raises UserError if that makes no sense."""
        if line.startswith(SLASH) and not line.startswith(2 * SLASH):
            return self._do(line)
        self._conversation.ask(line.removeprefix(SLASH))
        return Outcome(asks=True)

    def _do(self, line: str) -> Outcome:
        name, *rest = re.split(r"\s", line.removeprefix(SLASH), maxsplit=1)
        argument = "".join(rest).strip()
        command = self._commands.get(name)
        if command is None:
            remedy = "/help lists the commands, and a question that begins with a slash is typed with two"
            raise UserError(f"there is no command {line.split()[0]}; {remedy}")
        if argument and not command.argument:
            raise UserError(f"/{name} stands alone; leave out {argument!r}")
        return command.run(argument)

    def _new(self, argument: str) -> Outcome:
        self._conversation.forget()
        return Outcome("a new conversation")

    def _system(self, argument: str) -> Outcome:
        self._conversation.tell_system(argument)
        return Outcome("the system prompt is replaced" if argument else "there is no system prompt now")

    def _save(self, argument: str) -> Outcome:
        path = _file(argument)
        self._conversation.save(path)
        return Outcome(f"saved as {path}")

    def _load(self, argument: str) -> Outcome:
        path = _file(argument)
        self._conversation.load(path)
        count = len(self._conversation.messages())
        return Outcome(f"{count} messages of {path}; the next question goes on from there")

    def _retry(self, argument: str) -> Outcome:
        self._conversation.retry()
        return Outcome(asks=True)

    def _undo(self, argument: str) -> Outcome:
        self._conversation.undo()
        return Outcome("the last question and its answer are taken back")

    def _set(self, argument: str) -> Outcome:
        name, *value = argument.split(maxsplit=1) or [""]
        if value:
            self._settings.set(name, *value)
        elif name:
            self._settings.clear(name)
        return Outcome(str(self._settings))

    def _help(self, argument: str) -> Outcome:
        rows = {f"/{name} {command.argument}".strip(): command.phrase for name, command in self._commands.items()}
        rows |= {"Alt+Enter": "begin another line; so does a backslash at the end of one"}
        rows |= {"Ctrl-C": "stop the answer"}
        width = max(map(len, rows))
        return Outcome("\n".join(f"{key:{width}}   {phrase}" for key, phrase in rows.items()))

    def _quit(self, argument: str) -> Outcome:
        return Outcome(leaves=True)


def _file(argument: str) -> Path:
    if not argument:
        raise UserError("the name of a file is missing; give one that ends with .json, as in /save chat.json")
    if "\0" in argument:
        raise UserError(f"{argument!r} cannot be the name of a file; leave out the zero byte")
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:
        raise UserError(f"{argument} is nowhere: {error}; give a name without ~") from None
