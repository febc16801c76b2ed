"""Rank 0's side of a run: requests given to the engine, its tokens turned into text, and the records written."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.common.options.programs import GenerateOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.generation import Answer, Generation
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.leader import Leader
from tpi_mpi.engine.report import Latencies
from tpi_mpi.engine.request import Request
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.offline.lines import Lines
from tpi_mpi.offline.progress import BatchProgress, SurveyProgress
from tpi_mpi.offline.prompts import Mistake, Prompt, PromptsFile
from tpi_mpi.offline.record import line_of, record_of, record_of_mistake
from tpi_mpi.offline.records import Records
from tpi_mpi.offline.tasks import Survey, Tasks

# Mistakes that are recorded at once: of a file that has nothing else, they would all gather in memory.
_MISTAKES = 1000


class Batch:
    """All the prompts of one run, and where their completions go. A context manager.

    Raises UserError, on construction and so before any work begins, for anything in the prompts that cannot be done.

    survey: what there is to do.
    """

    def __init__(self, options: GenerateOptions, config: ModelConfig):
        self._options = options
        self._intake = Intake(options.slabs, config)
        self._mistakes: list[dict] = []
        self._written = 0  # records of mistakes that progress has not been told of
        with ExitStack() as stack:
            self._lines = stack.enter_context(Lines(options.prompts)) if options.prompts is not None else None
            to_file = options.output not in (None, "-")
            self._records = stack.enter_context(Records(Path(options.output))) if to_file else None
            origin = self._lines.origin if self._lines else "the command line"
            self._tasks = Tasks(self._prompts(), origin, options, self._intake, self._records)
            self.survey = self._survey()
            self._resources = stack.pop_all()

    def _prompts(self) -> Iterable[Prompt | Mistake]:
        sampling = _sampling(self._options)
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
        generation = Generation(leader, self._intake, latencies, self._show)
        with BatchProgress(self.survey) as progress, closing(generation.sweeps(self._requests())) as sweeps:
            tokens = 0
            for answers in sweeps:
                written, self._written = self._written + self._write(answers), 0
                progress.add(written, generation.tokens - tokens)
                tokens = generation.tokens
            progress.add(self._written + self._write([]), 0)

    def _requests(self) -> Iterator[tuple[Prompt, Request]]:
        """What is left to be done; notes the records of mistakes between that."""
        for task in self._tasks:
            if isinstance(task, Mistake):
                self._mistakes.append(record_of_mistake(task))
                if len(self._mistakes) == _MISTAKES:
                    self._written += self._write([])
            else:
                yield task.prompt, task.request

    def _write(self, answers: Sequence[Answer]) -> int:
        """Writes the records of answers, and of mistakes since the last time; returns how many."""
        records, self._mistakes = [*self._mistakes, *map(self._record, answers)], []
        if records and self._records:
            self._records.write(records)
        elif records and self._options.prompts is not None:
            sys.stdout.buffer.write(b"".join(map(line_of, records)))
            sys.stdout.buffer.flush()
        if answers:
            self._show("\n")
        return len(records)

    def _record(self, answer: Answer) -> dict:
        logprobs = self._options.logprobs
        return record_of(answer.key, answer.completion, logprobs, answer.cached_tokens, answer.prompt_scores)

    def _show(self, piece: str) -> None:
        if self._options.prompt is not None and piece:
            sys.stdout.write(piece)
            sys.stdout.flush()


def _sampling(options: GenerateOptions) -> SamplingOptions:
    """What prompts do not say themselves. Raises UserError if the schema's file cannot be used."""
    if options.json_schema is None:
        return options.sampling
    return options.sampling.override({"json_schema": JsonObject.load(options.json_schema).values})
