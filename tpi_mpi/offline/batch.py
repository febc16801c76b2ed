"""Rank 0's side of a run: requests given to the engine, its tokens turned into text, and the records written."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.common.options import GenerateOptions
from tpi_mpi.engine.completion import Completion
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.leader import Leader
from tpi_mpi.engine.report import Latencies
from tpi_mpi.engine.request import Token
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.offline.lines import Lines
from tpi_mpi.offline.progress import BatchProgress, SurveyProgress
from tpi_mpi.offline.prompts import Mistake, Prompt, PromptsFile
from tpi_mpi.offline.record import line_of, record_of, record_of_mistake
from tpi_mpi.offline.records import Records
from tpi_mpi.offline.tasks import Survey, Task, Tasks

# Mistakes that are recorded at once: of a file that has nothing else, they would all gather in memory.
_MISTAKES = 1000


@dataclass(frozen=True)
class _Running:
    """A prompt that the engine has been given, and what has been generated for it."""

    prompt: Prompt
    completion: Completion


class Batch:
    """All the prompts of one run, and where their completions go. A context manager.

    Raises UserError, on construction and so before any work begins, for anything in the prompts that cannot be done.

    survey: what there is to do.
    """

    def __init__(self, options: GenerateOptions, config: ModelConfig):
        self._options = options
        self._intake = Intake(options.slabs, config)
        self._running: dict[object, _Running] = {}
        with ExitStack() as stack:
            self._lines = stack.enter_context(Lines(options.prompts)) if options.prompts is not None else None
            to_file = options.output not in (None, "-")
            self._records = stack.enter_context(Records(Path(options.output))) if to_file else None
            origin = self._lines.origin if self._lines else "the command line"
            self._tasks = Tasks(self._prompts(), origin, options, self._intake, self._records)
            self.survey = self._survey()
            self._resources = stack.pop_all()

    def _prompts(self) -> Iterable[Prompt | Mistake]:
        sampling = self._options.sampling
        if self._lines is None:
            return [Prompt(1, self._options.prompt, None, sampling)]
        return PromptsFile(self._lines, sampling)

    def _survey(self) -> Survey:
        if self._lines is None:
            return self._tasks.survey()
        with SurveyProgress(self._lines) as progress:
            return self._tasks.survey(progress.seen)

    def __enter__(self) -> "Batch":
        return self

    def __exit__(self, *exception) -> None:
        self._resources.__exit__(*exception)

    def answer(self, leader: Leader, latencies: Latencies) -> None:
        """Generates everything that is left. Whatever ends with a sweep is recorded before the next one begins."""
        tasks = iter(self._tasks)
        with BatchProgress(self.survey) as progress:
            while (records := list(self._feed(leader, tasks))) or leader.busy:
                events = list(leader.step()) if leader.busy else []
                records += self._push(leader, events, latencies)
                self._write(records)
                progress.add(len(records), sum(token is not None for _, token in events))

    def _feed(self, leader: Leader, tasks: Iterator[Task | Mistake]) -> Iterator[dict]:
        """Gives the engine as many requests as it is hungry for; yields the records of mistakes between them."""
        mistakes = 0
        while leader.hungry and mistakes < _MISTAKES and (task := next(tasks, None)):
            if isinstance(task, Mistake):
                mistakes += 1
                yield record_of_mistake(task)
            else:
                running = _Running(task.prompt, self._intake.completion(task.request))
                self._running[leader.submit(task.request)] = running

    def _push(
        self, leader: Leader, events: Sequence[tuple[object, Token | None]], latencies: Latencies
    ) -> Iterator[dict]:
        """Adds a sweep's tokens to their completions; yields the records of those that end."""
        for sequence, token in events:
            running = self._running.get(sequence)
            if running is None:  # a stop string has ended it, with an earlier token of this sweep
                continue
            completion = running.completion
            if token:
                latencies.add(token.seconds, first=not completion.tokens)
            self._show(completion.push(token))
            if completion.finish_reason:
                if token and not token.finish_reason:  # which the engine cannot know
                    leader.cancel(sequence)
                yield self._finish(sequence)

    def _finish(self, sequence) -> dict:
        """The record of a sequence that has ended."""
        running = self._running.pop(sequence)
        self._show(running.completion.finish() + "\n")
        logprobs = self._options.logprobs
        return record_of(running.prompt, running.completion, logprobs, sequence.cached_tokens, sequence.prompt_scores)

    def _show(self, piece: str) -> None:
        if self._options.prompt is not None and piece:
            sys.stdout.write(piece)
            sys.stdout.flush()

    def _write(self, records: Sequence[dict]) -> None:
        if not records:
            return
        if self._records:
            self._records.write(records)
        elif self._options.prompts is not None:
            sys.stdout.buffer.write(b"".join(map(line_of, records)))
            sys.stdout.buffer.flush()
