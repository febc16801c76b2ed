"""Options that several programs have."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from tpi_mpi.cli.parser import Parser, batch_argument, bias_argument, size_argument
from tpi_mpi.common.options.machine import (
    ACTIVATIONS,
    ALLREDUCES,
    DEFAULT_TIMEOUT,
    KV_DTYPES,
    LOOKUP,
    MACHINE_KEYS,
    WIRES,
    MachineOptions,
)
from tpi_mpi.common.options.sampling import DEFAULT_NEW_TOKENS

Options = TypeVar("Options")


def parsed(parser: Parser, kind: type[Options], arguments: Sequence[str] | None) -> Options:
    """The options of a program that has nothing but its own and those of the machine."""
    given = vars(parser.parse_args(arguments))
    return kind(machine=machine_options(given), **given)


def machine_options(given: dict) -> MachineOptions:
    """Removes from a command line's values the machine options that the program has, and returns these."""
    return MachineOptions(**{key: given.pop(key) for key in MACHINE_KEYS if key in given})


def add_sampling(group) -> None:
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


def add_run(group) -> None:
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


def add_batching(group) -> None:
    """Adds the options of programs that continue many sequences."""
    add = group.add_argument
    add("--batch", metavar="N", type=batch_argument, help="sequences at once, at most, or auto (the default)")
    add(
        "--share-prefixes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compute what several prompts begin with only once (default: yes)",
    )


def add_machine(group, draft: str = LOOKUP, files: bool = True) -> None:
    """Adds the options of programs that generate.

    draft: the default of what drafts. files: whether the program writes a report and a trace.
    """
    add_run(group)
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
