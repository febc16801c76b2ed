"""What is to be done of a run's prompts, found anew whenever it is asked for: too much to be held."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tpi_mpi.common.errors import CheckpointError, UserError
from tpi_mpi.common.options.programs import GenerateOptions
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.request import Request
from tpi_mpi.offline.prompts import Mistake, Prompt
from tpi_mpi.offline.records import Records
from tpi_mpi.tokenizer.conversation import asked


@dataclass(frozen=True)
class Task:
    """One prompt, both as the user gave it and as the engine takes it."""

    prompt: Prompt
    request: Request


@dataclass
class Survey:
    """What there is to do.

    prompts: all of the file. answered: those that have a record already. mistakes: others that cannot be done.
    requests: what is left. longest, positions: of these, the length of the longest and the sum of all lengths.
    top: None if none of them wants its prompt's log-probabilities; else the most alternatives that any wants.
    schemas: whether any of them has a JSON schema.
    """

    prompts: int = 0
    answered: int = 0
    mistakes: int = 0
    requests: int = 0
    longest: int = 1
    positions: int = 0
    top: int | None = None
    schemas: bool = False

    def add(self, entry: Task | Mistake | None) -> None:
        """Counts one prompt in; None for one that has a record already."""
        self.prompts += 1
        if entry is None:
            self.answered += 1
        elif isinstance(entry, Mistake):
            self.mistakes += 1
        else:
            self._add_request(entry.request)

    def _add_request(self, request: Request) -> None:
        self.requests += 1
        self.longest = max(self.longest, request.length)
        self.positions += request.length
        self.schemas = self.schemas or request.sampling.json_schema is not None
        if request.sampling.prompt_logprobs:
            self.top = max(self.top or 0, request.sampling.top_logprobs)


class Tasks:
    """The tasks of a run, and the mistakes in its prompts file that are to be recorded; prompts with a record are not.

    Iterating raises UserError for a mistake, unless the options skip such lines; for a record of another prompt; and
    if the checkpoint lacks what a prompt needs.

    prompts: may be iterated over several times. origin: the name of their file, for messages.
    """

    def __init__(
        self,
        prompts: Iterable[Prompt | Mistake],
        origin: str,
        options: GenerateOptions,
        intake: Intake,
        records: Records | None,
    ):
        self._prompts = prompts
        self._origin = origin
        self._options = options
        self._intake = intake
        self._records = records

    def __iter__(self) -> Iterator[Task | Mistake]:
        return (entry for entry in map(self._entry, self._prompts) if entry)

    def survey(self, seen: Callable[[int], None] = lambda count: None) -> Survey:
        """Goes through all prompts. Raises UserError as iterating does, and if there are none.

        seen: is told how many it has been through, after each.
        """
        survey = Survey()
        for entry in map(self._entry, self._prompts):
            survey.add(entry)
            seen(survey.prompts)
        if not survey.prompts:
            raise UserError(f"{self._origin} has no prompts; one JSON object per line is needed")
        return survey

    def _entry(self, entry: Prompt | Mistake) -> Task | Mistake | None:
        """The task of a prompt, or its mistake; None for one that has a record already."""
        if isinstance(entry, Prompt):
            if self._answered(entry):
                return None
            entry = self._task(entry)
        if isinstance(entry, Mistake):
            self._tolerate(entry)
            return None if self._answered(entry) else entry
        return entry

    def _answered(self, entry: Prompt | Mistake) -> bool:
        return self._records is not None and self._records.answered(entry)

    def _task(self, prompt: Prompt) -> Task | Mistake:
        options = self._options
        content = asked(prompt.content, options.system) if options.chat else prompt.content
        try:
            return Task(prompt, self._intake.request(content, prompt.sampling))
        except CheckpointError:  # of which a line is not to blame
            raise
        except UserError as error:
            return Mistake(prompt.id, prompt.text, str(error), prompt.line)

    def _tolerate(self, mistake: Mistake) -> None:
        """Raises UserError for a mistake unless the options skip such lines."""
        if mistake.line is None:
            raise UserError(mistake.sentence)
        if not self._options.skip_bad:
            raise UserError(f"line {mistake.line} of {self._origin}: {mistake.sentence}")
