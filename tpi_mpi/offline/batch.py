"""Rank 0's side of a run: prompts turned into requests, tokens into text; results written."""

import json
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import randbits

from tqdm import tqdm

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.common.options import DEFAULT_NEW_TOKENS, GenerateOptions, SamplingOptions
from tpi_mpi.common.terminal import terminal_width
from tpi_mpi.engine.completion import Completion
from tpi_mpi.engine.request import Request, Token
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.offline.prompts import Prompt, read_prompts
from tpi_mpi.offline.records import Records, record_of
from tpi_mpi.offline.stdin import read_lines
from tpi_mpi.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Task:
    """One prompt, both as the user gave it and as the engine takes it."""

    prompt: Prompt
    request: Request


class Batch:
    """All the requests of one run, and where their completions go. A context manager.

    Raises UserError, on construction and so before any work begins, for anything in the prompts that cannot be done.

    tasks: what is still to be done. skipped: how many prompts the output file already answers.
    """

    def __init__(self, options: GenerateOptions, config: ModelConfig):
        self._options = options
        self._config = config
        self._generation = _generation_config(options.slabs / "generation_config.json")
        self._eos_token_ids = frozenset(self._generation.token_ids("eos_token_id") or config.eos_token_id)
        prompts = self._prompts()
        self._records = Records(Path(options.output)) if options.output not in (None, "-") else None
        rest = self._records.remaining(prompts) if self._records else prompts
        self.skipped = len(prompts) - len(rest)
        self._tokenizer = self._load_tokenizer(rest)
        self.tasks = [self._task(prompt) for prompt in rest]

    @property
    def capacity(self) -> int:
        """Positions of the longest finished sequence."""
        return max((task.request.length for task in self.tasks), default=1)

    def __enter__(self) -> "Batch":
        with ExitStack() as stack:
            if self._records:
                stack.enter_context(self._records)
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._resources.__exit__(*exception)

    def progress(self) -> Iterator[Task]:
        """Yields the tasks; shows a bar on standard error if that is a terminal and there are several prompts."""
        total, width = len(self.tasks) + self.skipped, terminal_width()
        hidden = width is None or total == 1
        yield from tqdm(self.tasks, initial=self.skipped, total=total, unit="prompt", disable=hidden, ncols=width)

    def write(self, task: Task, tokens: Generator[Token, None, None]) -> None:
        """Shows one request's tokens as the engine yields them, and records the finished completion."""
        completion = Completion(self._tokenizer, task.request)
        with closing(tokens):  # not by the garbage collector, which would swallow a Ctrl-C meanwhile
            for token in tokens:
                self._show(completion.push(token))
                if completion.finish_reason:
                    break
        self._show(completion.finish())
        if self._options.prompt is not None:
            self._show("\n")
        self._record(record_of(task.prompt, completion, self._options.logprobs))

    def _show(self, piece: str) -> None:
        if self._options.prompt is not None and piece:
            sys.stdout.write(piece)
            sys.stdout.flush()

    def _record(self, record: dict) -> None:
        if self._records:
            self._records.write(record)
        elif self._options.prompts is not None:
            sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    def _prompts(self) -> list[Prompt]:
        options = self._options
        if options.prompt is not None:
            return [Prompt(1, options.prompt, None, options.sampling)]
        origin = "standard input" if options.prompts == "-" else f"prompts file {options.prompts}"
        try:
            if options.prompts == "-":
                return read_prompts(read_lines(), origin, options.sampling)
            with open(options.prompts, encoding="utf-8") as lines:
                return read_prompts(lines, options.prompts, options.sampling)
        except UnicodeDecodeError as error:
            raise UserError(f"{origin} cannot be read as UTF-8: {error}") from None
        except OSError as error:
            raise UserError(f"{origin} cannot be read: {error}") from None

    def _load_tokenizer(self, prompts: Sequence[Prompt]) -> Tokenizer | None:
        """The tokenizer, or None if there is none and no prompt needs one. Raises UserError if one does."""
        try:
            return Tokenizer.load(self._options.slabs)
        except UserError:
            if any(prompt.text is not None or prompt.sampling.stop for prompt in prompts):
                raise
            return None

    def _task(self, prompt: Prompt) -> Task:
        try:
            ids = prompt.token_ids or self._encode(prompt.text)
            return Task(prompt, Request(ids, self._settle(prompt.sampling, ids), self._eos_token_ids))
        except UserError as error:
            if self._options.prompt is not None:
                raise
            raise UserError(f"prompt {prompt.id!r}: {error}") from None

    def _encode(self, text: str) -> tuple[int, ...]:
        if not self._options.chat:
            return tuple(self._tokenizer.encode(text))
        from tpi_mpi.tokenizer.chat_template import render_chat  # imports jinja2, which only a chat needs

        text = render_chat(self._tokenizer, text, self._options.system)
        return tuple(self._tokenizer.encode(text, whole=False))  # the template has added all special tokens

    def _settle(self, sampling: SamplingOptions, ids: tuple[int, ...]) -> SamplingOptions:
        """Fills in what the user left open. Raises UserError if the sequence does not fit into the context."""
        if not ids:
            raise UserError("the prompt is empty; at least one token is needed")
        vocabulary = range(self._config.vocab_size)
        unknown = next((item for item in ids if item not in vocabulary), None)
        if unknown is not None:
            what = "negative" if unknown < 0 else f"not below the model's vocab_size {len(vocabulary)}"
            raise UserError(f"token id {unknown} is {what}")
        context = self._config.context_length
        room = context - len(ids)
        if room < 1:
            raise UserError(f"the prompt has {len(ids)} tokens, and the model's context of {context} leaves no room")
        wanted = sampling.max_new_tokens or min(DEFAULT_NEW_TOKENS, room)
        if wanted > room:
            raise UserError(
                f"{len(ids)} prompt tokens and {wanted} new ones exceed the model's context of {context}; "
                f"give --max-new-tokens {room} or fewer"
            )
        open_keys = [key for key in ("top_k", "top_p", "repetition_penalty") if getattr(sampling, key) is None]
        defaults = {key: self._generation.get(key) for key in open_keys if self._generation.get(key)}
        seed = randbits(63) if sampling.seed is None else sampling.seed
        return replace(sampling, max_new_tokens=wanted, seed=seed).override(defaults)


def _generation_config(path: Path) -> JsonObject:
    """generation_config.json; an empty object if the checkpoint has none."""
    return JsonObject.load(path) if path.is_file() else JsonObject({}, str(path))
