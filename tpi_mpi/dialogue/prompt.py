"""Lines from a person at a terminal."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from tpi_mpi.common.errors import say
from tpi_mpi.dialogue.settings import RANGES

_PROMPT, _CONTINUATION = "> ", ". "
_FILES, _SETTING = ("/save", "/load"), "/set"


class Prompt:
    """Reads what a person types, which may have several lines.

    commands: names to complete.
    """

    def __init__(self, commands: list[str]):
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=_Completions(commands),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=_CONTINUATION,
        )

    def lines(self) -> Iterator[str]:
        """What is typed, until the person leaves. Ctrl-C begins anew."""
        while True:
            try:
                text = self._session.prompt(_PROMPT).strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text:
                yield text


class _Completions(Completer):
    """The names of commands, and what can stand after some of them."""

    def __init__(self, commands: list[str]):
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Called by prompt_toolkit."""
        name, space, argument = document.text_before_cursor.partition(" ")
        if not space:
            yield from _beginning(name, self._commands if name else ())
        elif name == _SETTING:
            yield from _beginning(argument, RANGES)
        elif name in _FILES:
            yield from self._paths.get_completions(Document(argument), complete_event)


def _beginning(typed: str, words: Iterable[str]) -> Iterator[Completion]:
    return (Completion(word, -len(typed)) for word in words if word.startswith(typed))


def _keys() -> KeyBindings:
    """Enter ends the text unless a backslash stands before it; Alt+Enter begins another line."""
    keys = KeyBindings()

    @keys.add("enter")
    def end_or_continue(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.char_before_cursor == "\\" and buffer.document.is_cursor_at_the_end_of_line:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def another_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    """What was typed in earlier chats, which nobody else may read."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError:  # there is no such home directory
        return InMemoryHistory()
    path = state / "tpi_mpi" / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
    except OSError as error:
        _tell_unkept(path, error)
        return InMemoryHistory()
    return _KeptHistory(path)


class _KeptHistory(FileHistory):
    """A file, for as long as that can be written; when it no longer can, that is said once."""

    def __init__(self, path: Path):
        super().__init__(str(path))
        self._told = False

    def store_string(self, string: str) -> None:
        """Called by prompt_toolkit."""
        try:
            super().store_string(string)
        except OSError as error:
            if not self._told:
                _tell_unkept(Path(self.filename), error)
            self._told = True


def _tell_unkept(path: Path, error: OSError) -> None:
    say(f"what you type is not kept for later chats: {path} cannot be written ({error.strerror})")
