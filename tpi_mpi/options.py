"""What the user asked for: immutable options, checked once, and the command line they come from."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NoReturn

from tpi_mpi.errors import UserError
from tpi_mpi.units import parse_size

DEFAULT_NEW_TOKENS = 256
ALLREDUCES = ("star", "mpi")


@dataclass(frozen=True)
class SamplingOptions:
    """How one text is continued. None stands for what the checkpoint's generation_config.json says, else for off.

    max_new_tokens: None for as many as the context has room for, up to DEFAULT_NEW_TOKENS.
    temperature: 0 takes the most probable token every time.
    seed: None draws another one for each run.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        self._whole("max_new_tokens", 1)
        self._whole("top_k", 1)
        self._whole("seed", 0)
        self._number("temperature", 0, None)
        self._number("top_p", 0, 1)
        self._number("repetition_penalty", 0, None)
        if self.top_p == 0 or self.repetition_penalty == 0:
            raise UserError("top_p and repetition_penalty must be greater than 0")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise UserError(f"stop is {list(self.stop)!r}; texts of at least one character are needed")

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise UserError(f"{name} is {value!r}; a whole number of at least {least} is needed")

    def _number(self, name: str, least: float, most: float | None) -> None:
        value = getattr(self, name)
        if value is None:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value < float("inf") or (most is not None and value > most):
            raise UserError(f"{name} is {value!r}; a number from {least} {f'to {most}' if most else 'up'} is needed")

    def override(self, values: dict[str, object]) -> "SamplingOptions":
        """These options with some replaced. Raises UserError for a value that is not allowed."""
        values = dict(values)
        if isinstance(values.get("stop"), str):
            values["stop"] = (values["stop"],)
        if "stop" in values:
            if not isinstance(values["stop"], list | tuple):
                raise UserError(f"stop is {values['stop']!r}; a text or a list of texts is needed")
            values["stop"] = tuple(values["stop"])
        return replace(self, **values)


SAMPLING_KEYS = tuple(entry.name for entry in fields(SamplingOptions))


@dataclass(frozen=True)
class GenerateOptions:
    """The command line of tpi_mpi.generate.

    memory: peak resident bytes a rank may reach, or None for what the machine has.
    window: blocks in memory besides the pinned ones, or None for the program's choice.
    threads: of each rank, or None for its share of the host's processors.
    """

    slabs: Path
    sampling: SamplingOptions = SamplingOptions()
    prompt: str | None = None
    prompts: str | None = None
    output: str | None = None
    chat: bool = False
    system: str | None = None
    logprobs: bool = False
    memory: int | None = None
    window: int | None = None
    allreduce: str = "star"
    threads: int | None = None
    report: Path | None = None
    trace: Path | None = None

    def __post_init__(self):
        if (self.prompt is None) == (self.prompts is None):
            raise UserError("give either --prompt TEXT or --prompts FILE")
        if self.system is not None and not self.chat:
            raise UserError("--system needs --chat: without a chat there is no system prompt")
        if self.logprobs and self.prompts is None and self.output is None:
            raise UserError("--logprobs are written to the output file; give --output FILE too")
        for name in ("window", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} is {value}; at least 1 is needed")

    @classmethod
    def parse(cls, arguments: Sequence[str] | None) -> "GenerateOptions":
        """Reads the command line. Raises UserError where it makes no sense."""
        given = vars(generate_parser().parse_args(arguments))
        given["stop"] = tuple(given["stop"] or ())
        sampling = SamplingOptions(**{key: given.pop(key) for key in SAMPLING_KEYS})
        return cls(sampling=sampling, **given)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UserErrors, so that they are shown as all others are."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def size_argument(text: str) -> int:
    try:
        return parse_size(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def generate_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.generate",
        usage="mpirun -np N %(prog)s SLABS (--prompt TEXT | --prompts FILE) [options]",
        description="Continues texts with a model that was split into slabs, one rank a slab.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    add("--prompt", metavar="TEXT", help="one text; its continuation streams to standard output")
    add("--prompts", metavar="FILE.jsonl", help='one {"id": ..., "prompt": ...} a line (- for standard input)')
    add("--output", metavar="FILE.jsonl", help="one JSON object a finished text; texts already there are not repeated")
    add("--chat", action="store_true", help="put each prompt into the checkpoint's chat template")
    add("--system", metavar="TEXT", help="system prompt of the chat")
    add("--logprobs", action="store_true", help="add the chosen tokens' log-probabilities to the output")
    _add_sampling(parser.add_argument_group("sampling"))
    _add_machine(parser.add_argument_group("machine"))
    return parser


def _add_sampling(group) -> None:
    add = group.add_argument
    add("--max-new-tokens", metavar="K", type=int, help=f"default: {DEFAULT_NEW_TOKENS}, or what the context leaves")
    add("--temperature", metavar="T", type=float, default=0.0, help="0, the default, is greedy")
    add("--top-k", metavar="K", type=int, help="sample from the K most probable tokens")
    add("--top-p", metavar="P", type=float, help="sample from the fewest tokens whose probabilities sum to P")
    add("--repetition-penalty", metavar="R", type=float, help="divide the scores of tokens already there by R")
    add("--seed", metavar="S", type=int, help="repeat a run's samples; by default every run differs")
    add("--stop", metavar="TEXT", action="append", help="end before this text appears; may be given several times")


def _add_machine(group) -> None:
    add = group.add_argument
    add("--memory", metavar="SIZE", type=size_argument, help="peak memory a rank may reach, as in 3GiB")
    add("--window", metavar="BLOCKS", type=int, help="blocks in memory at once; without --memory, none is kept longer")
    add("--allreduce", choices=ALLREDUCES, default="star", help="how partial results are summed (default: star)")
    add("--threads", metavar="N", type=int, help="threads of each rank; default: its share of the host's processors")
    add("--report", metavar="FILE.json", type=Path, help="write what the run took")
    add("--trace", metavar="FILE.json", type=Path, help="write a timeline for chrome://tracing or ui.perfetto.dev")
