"""How far a prompts file has come: a bar on a terminal, or a line now and then in a log."""

import time
from abc import ABC, abstractmethod

from tqdm import tqdm

from tpi_mpi.common.errors import say
from tpi_mpi.common.terminal import terminal_width
from tpi_mpi.common.units import show_duration
from tpi_mpi.offline.lines import Lines
from tpi_mpi.offline.tasks import Survey

# Seconds from one state of the bar to the next, and from one line of a log to the next.
_MOVING, _LOGGED = 0.2, 30.0

_BAR = "{percentage:3.0f}%|{bar}| {desc}"


class _Progress(ABC):
    """Of something that takes its time. A context manager.

    total: what there is to do. patience: seconds before anything is shown on a terminal.
    stays: whether the bar's last state is left there.
    """

    def __init__(self, total: int, patience: float, stays: bool):
        self._total = total
        self._stays = stays
        self._width = terminal_width()
        self._bar: tqdm | None = None
        self._began = self._shown = time.monotonic()
        self._wait = patience if self._width else _LOGGED

    @abstractmethod
    def _done(self) -> int:
        """How much of the total is done."""

    @abstractmethod
    def _words(self) -> str:
        """How far it has come."""

    def show(self) -> None:
        """Shows how far it has come, if it is time to."""
        now = time.monotonic()
        if now - self._shown < self._wait:
            return
        self._shown, self._wait = now, _MOVING if self._width else _LOGGED
        if self._width:
            self._move()
        else:
            say(self._words())

    def _move(self) -> None:
        if self._bar is None:
            self._bar = tqdm(total=self._total, ncols=self._width, leave=self._stays, bar_format=_BAR)
        self._bar.n = self._done()
        self._bar.set_description_str(self._words())

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._move()
            self._bar.close()


class SurveyProgress(_Progress):
    """Of the survey of a prompts file."""

    def __init__(self, lines: Lines):
        super().__init__(lines.nbytes, patience=3.0, stays=False)
        self._lines = lines
        self._prompts = 0

    def seen(self, prompts: int) -> None:
        """Notes how many prompts have been looked at."""
        self._prompts = prompts
        self.show()

    def _done(self) -> int:
        return self._lines.read

    def _words(self) -> str:
        share = 100 * self._lines.read // self._lines.nbytes
        return f"{self._prompts} prompts checked, {share} % of {self._lines.origin}"


class BatchProgress(_Progress):
    """Of the answers to several prompts; a single one needs none, because its text is shown.

    survey: of all prompts.
    """

    def __init__(self, survey: Survey):
        super().__init__(survey.prompts, patience=0.0, stays=True)
        self._survey = survey
        self._answered = 0
        self._tokens = 0

    def add(self, answered: int, tokens: int) -> None:
        """Notes prompts that have been answered since the last time, and tokens that have been generated."""
        self._answered += answered
        self._tokens += tokens
        if self._total > 1:
            self.show()

    def _done(self) -> int:
        return self._survey.answered + self._answered

    def _words(self) -> str:
        elapsed = time.monotonic() - self._began
        rate = self._tokens / elapsed if elapsed else 0.0
        words = [f"{self._done()} of {self._total} prompts", f"{self._tokens} tokens", f"{rate:.1f} tokens/s"]
        rest = self._total - self._done()
        if rest and self._answered:
            words.append(f"{show_duration(elapsed / self._answered * rest)} left")
        return ", ".join(words)
