"""The command lines, parsed into options."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options import (
    ACTIVATIONS,
    ALLREDUCES,
    DEFAULT_NEW_TOKENS,
    DEFAULT_TIMEOUT,
    KV_DTYPES,
    LOOKUP,
    MACHINE_KEYS,
    NO_DRAFT,
    SAMPLING_KEYS,
    WIRES,
    BackendOptions,
    BenchOptions,
    CheckOptions,
    GenerateOptions,
    MachineOptions,
    SamplingOptions,
    ServeOptions,
)
from tpi_mpi.common.units import parse_size


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UserErrors, so that they are shown like all other mistakes."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def size_argument(text: str) -> int:
    """Bytes, for argparse, which shows the message of an ArgumentTypeError."""
    try:
        return parse_size(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_generate(arguments: Sequence[str] | None) -> GenerateOptions:
    """Parses the command line of tpi_mpi.generate. Raises UserError if it makes no sense."""
    given = vars(generate_parser().parse_args(arguments))
    own = set(SAMPLING_KEYS) - {"json_schema"}  # which is a file, and only rank 0 may have it
    sampling = SamplingOptions(**{key: given.pop(key) for key in own})
    machine = _machine_options(given)
    return GenerateOptions(sampling=sampling, machine=machine, **given)


def _parsed(parser: Parser, kind: type, arguments: Sequence[str] | None):
    """The options of a program that has nothing but its own and those of the machine."""
    given = vars(parser.parse_args(arguments))
    return kind(machine=_machine_options(given), **given)


def _machine_options(given: dict) -> MachineOptions:
    """Removes from a command line's values the machine options that the program has, and returns these."""
    return MachineOptions(**{key: given.pop(key) for key in MACHINE_KEYS if key in given})


def generate_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.generate",
        usage="mpirun -np N %(prog)s SLABS (--prompt TEXT | --prompts FILE) [options]",
        description="Continues prompts with a model that was split into slabs, one slab per rank.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    add("--prompt", metavar="TEXT", help="one prompt; its continuation streams to standard output")
    add("--prompts", metavar="FILE.jsonl", help='one {"id": ..., "prompt": ...} per line (- for standard input)')
    add("--output", metavar="FILE.jsonl", help="one JSON object per finished request; those already there are skipped")
    add("--skip-bad", action="store_true", help="answer a line that cannot be done with an error; do the others")
    add("--chat", action="store_true", help="put each prompt into the checkpoint's chat template")
    add("--system", metavar="TEXT", help="system prompt of the chat")
    add("--logprobs", action="store_true", help="add the chosen tokens' log-probabilities to the output")
    prompt_logprobs = "add the log-probabilities of the prompt's tokens; with --max-new-tokens 0, nothing else"
    add("--prompt-logprobs", action="store_true", help=prompt_logprobs)
    top_logprobs = "add the log-probabilities of the K most probable tokens at every position"
    add("--top-logprobs", metavar="K", type=int, default=0, help=top_logprobs)
    _add_sampling(parser.add_argument_group("sampling"))
    _add_batching(parser.add_argument_group("many prompts"))
    _add_machine(parser.add_argument_group("machine"))
    return parser


def parse_backend(arguments: Sequence[str] | None) -> BackendOptions:
    """Parses the command line of tpi_mpi.backend. Raises UserError if it makes no sense."""
    return _parsed(backend_parser(), BackendOptions, arguments)


def backend_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.backend",
        usage="mpirun -np N %(prog)s SLABS --socket PATH [options]",
        description="The engine of a server, which starts it and tells it what to continue.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    add("--socket", metavar="PATH", required=True, help="where the server listens for it")
    _add_engine(parser)
    return parser


def _add_engine(parser: Parser) -> None:
    """Adds what a server passes on to its engine."""
    many = parser.add_argument_group("many requests")
    longest = "positions of the longest sequence (default: 4096, or the model's context)"
    many.add_argument("--longest", metavar="N", type=int, help=longest)
    grammar = "set memory aside for answers that follow JSON schemas: 1.3 KiB a token; needs llguidance"
    many.add_argument("--grammar", action="store_true", help=grammar)
    _add_batching(many)
    _add_machine(parser.add_argument_group("machine"), files=False)


def parse_serve(arguments: Sequence[str] | None) -> ServeOptions:
    """Parses the command line of tpi_mpi.serve. Raises UserError if it makes no sense, also to its engine."""
    serve_parser().parse_args(arguments)  # complains of what neither of the two knows
    own = Parser(add_help=False)
    _add_serve(own)
    given, engine = own.parse_known_args(arguments)
    parse_backend([str(given.slabs), "--socket", "", *engine])
    values = {**vars(given), "cors": tuple(given.cors)}
    return ServeOptions(engine=tuple(engine), **values)


def serve_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.serve",
        usage="%(prog)s SLABS --ranks N [--hostfile FILE] [options]",
        description="Answers requests of OpenAI's protocol, and shows a page to chat on. Starts mpirun by itself.",
    )
    _add_serve(parser)
    _add_engine(parser)
    return parser


def _add_serve(parser: Parser) -> None:
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    add("--ranks", metavar="N", type=int, required=True, help="how many ranks to start, as many as there are slabs")
    add("--hostfile", metavar="FILE", type=Path, help="mpirun's hostfile; its first host must be this machine")
    add(
        "--mpirun", metavar="COMMAND", help='what starts the ranks, as in "mpirun --mca btl tcp,self" (default: mpirun)'
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=8000, help="port to listen on; 0 for any that is free (default: 8000)")
    add("--ready-file", metavar="FILE", type=Path, help="write the server's URL there as soon as it listens")
    keys = "file with the API keys of clients, one a line; needed on any other address than this machine's own"
    add("--api-key-file", metavar="FILE", type=Path, help=keys)
    add("--no-api-key", action="store_true", help="let everybody in who can reach the address")
    cors = "let web pages of this origin use the server; may be given several times"
    add("--cors", metavar="ORIGIN", action="append", default=[], help=cors)
    add("--model-name", metavar="NAME", help="what clients call the model (default: the checkpoint's name)")
    add("--queue", metavar="N", type=int, default=64, help="sequences that may wait, at most (default: 64)")
    drain = "time for requests that are under way when the server is told to end (default: 30)"
    add("--drain", metavar="SECONDS", type=float, default=30.0, help=drain)
    restarts = "how often in a row to start the engine again when it is lost (default: 5)"
    add("--restarts", metavar="N", type=int, default=5, help=restarts)
    add("--log-prompts", action="store_true", help="write prompts to the log, which otherwise has only their lengths")


def parse_bench(arguments: Sequence[str] | None) -> BenchOptions:
    """Parses the command line of tpi_mpi.bench. Raises UserError if it makes no sense."""
    return _parsed(bench_parser(), BenchOptions, arguments)


def bench_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.bench",
        usage="mpirun -np N %(prog)s SLABS [options]",
        description="Measures a run beside the lower bound that these machines and their network set for it.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    add("--prompt-tokens", metavar="P", type=int, default=64, help="length of the prompt (default: 64)")
    add("--new-tokens", metavar="K", type=int, default=16, help="tokens to time after it (default: 16)")
    _add_machine(parser.add_argument_group("machine"), draft=NO_DRAFT)
    return parser


def parse_check(arguments: Sequence[str] | None) -> CheckOptions:
    """Parses the command line of tpi_mpi.check. Raises UserError if it makes no sense."""
    given = vars(check_parser().parse_args(arguments))
    machine, ignored = _machine_options(given), tuple(given.pop("ignore_key"))
    return CheckOptions(machine=machine, ignored_keys=ignored, **given)


def check_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.check",
        usage="mpirun -np N %(prog)s SLABS [options]",
        description="Examines all machines at once, and says what is wrong with them.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split, or a checkpoint")
    add("--prompt-tokens", metavar="P", type=int, default=64, help="length of the prompt to expect (default: 64)")
    new = f"new tokens to have room for (default: {DEFAULT_NEW_TOKENS})"
    add("--new-tokens", metavar="K", type=int, default=DEFAULT_NEW_TOKENS, help=new)
    _add_run(parser)
    add_ignore_key(parser)
    add("--report", metavar="FILE.json", type=Path, help="write what was found, for weights_tools.split --ratios-from")
    return parser


def _add_sampling(group) -> None:
    add = group.add_argument
    most = f"generate at most K (default: {DEFAULT_NEW_TOKENS}, or what the context leaves)"
    add("--max-new-tokens", metavar="K", type=int, help=most)
    add("--temperature", metavar="T", type=float, default=0.0, help="0, the default, is greedy")
    add("--top-k", metavar="K", type=int, help="sample from the K most probable tokens")
    add("--top-p", metavar="P", type=float, help="sample from the fewest tokens whose probabilities sum to P")
    add("--min-p", metavar="P", type=float, help="sample from tokens of at least P times the highest probability")
    add("--repetition-penalty", metavar="R", type=float, help="divide the logits of tokens that have occurred by R")
    generated = "the logits of tokens that have been generated"
    add("--presence-penalty", metavar="X", type=float, default=0.0, help=f"subtract X from {generated}")
    frequency = f"subtract X from {generated}, for each time"
    add("--frequency-penalty", metavar="X", type=float, default=0.0, help=frequency)
    bias = "add BIAS, from -100 to 100, to the logit of a token; may be given several times"
    add("--logit-bias", metavar="ID=BIAS", type=bias_argument, action="append", default=[], help=bias)
    add("--seed", metavar="S", type=int, help="the same seed repeats a run (default: every run differs)")
    stop = "end before this text appears; may be given several times"
    add("--stop", metavar="TEXT", action="append", default=[], help=stop)
    schema = "have the answers follow a JSON schema; needs llguidance"
    add("--json-schema", metavar="FILE", type=Path, help=schema)


def add_ignore_key(parser: Parser) -> None:
    """Adds the option of every program that reads a checkpoint's config.json."""
    ignored = "a key of config.json that is not understood but changes nothing; may be given several times"
    parser.add_argument("--ignore-key", metavar="KEY", action="append", default=[], help=ignored)


def add_timeout(group) -> None:
    """Adds the option that every program of several ranks has."""
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=DEFAULT_TIMEOUT,
        help="end the job everywhere within this time if a machine is lost or a disk hangs (default: 60)",
    )


def _add_run(group) -> None:
    """Adds the options that a check needs as well, to judge the run that it is for."""
    add = group.add_argument
    add("--memory", metavar="SIZE", type=size_argument, help="peak memory a rank may reach, as in 3GiB")
    add("--threads", metavar="N", type=int, help="threads of each rank (default: its share of the host's cores)")
    activations = "bits of activations where weights are int8, int4 or mxfp4: int16 is as good as float32, int8 faster"
    add("--activations", choices=ACTIVATIONS, default="int16", help=f"{activations} (default: int16)")
    add("--allreduce", choices=ALLREDUCES, default="star", help="how partial results are summed (default: star)")
    add("--wire", choices=WIRES, default="float32", help="what partial results are sent as (default: float32)")
    add(
        "--overlap",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="sum one chunk of a prompt while the next is computed (default: yes)",
    )
    add_timeout(group)


def bias_argument(text: str) -> tuple[str, float]:
    """A token id, which is checked later, and its bias, for argparse."""
    id, _, bias = text.partition("=")
    try:
        return id, float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=BIAS, as in 50256=-100") from None


def batch_argument(text: str) -> int | None:
    """The most sequences at once, for argparse; None for ``auto``."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a whole number") from None


def _add_batching(group) -> None:
    """Adds the options of programs that continue many sequences."""
    add = group.add_argument
    add("--batch", metavar="N", type=batch_argument, help="sequences at once, at most, or auto (the default)")
    add(
        "--share-prefixes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compute what several prompts begin with only once (default: yes)",
    )


def _add_machine(group, draft: str = LOOKUP, files: bool = True) -> None:
    """Adds the options of programs that generate.

    draft: the default of what drafts. files: whether the program writes a report and a trace.
    """
    _add_run(group)
    add = group.add_argument
    drafts = (
        "what drafts tokens that are then checked together, which changes none: none, lookup (what was said before), "
        f"self (the copy that split --with-draft wrote), the slabs of a small model, or as in lookup,self ({draft})"
    )
    add("--draft", metavar="DRAFT", default=draft, help=drafts)
    kv = "dtype of keys and values (default: that of the weights, or bfloat16 where these are packed)"
    add("--kv", choices=KV_DTYPES, help=kv)
    add("--window", metavar="BLOCKS", type=int, help="blocks in the window; without --memory, no block is pinned")
    if not files:
        return
    add("--report", metavar="FILE.json", type=Path, help="write what the run took")
    add("--trace", metavar="FILE.json", type=Path, help="write a timeline for chrome://tracing or ui.perfetto.dev")
