"""The options for how a model is divided among ranks, for every program that writes slabs."""

from argparse import ArgumentTypeError

from tpi_mpi.cli.parser import Parser
from tpi_mpi.common.errors import UserError


def add_partition_arguments(parser: Parser, required: bool) -> None:
    """Adds --ranks and --ratios. required: whether --ranks has to be given."""
    parser.add_argument("--ranks", metavar="N", type=int, required=required, help="number of slabs")
    ratios = "relative sizes of the ranks' shards, as in 2,1,1 (default: equal ones)"
    parser.add_argument("--ratios", metavar="R,R,...", type=_ratios, help=ratios)


def check_ranks(ranks: int) -> None:
    """Raises UserError unless there is at least one rank."""
    if ranks < 1:
        raise UserError(f"--ranks is {ranks}; at least 1 is needed")


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a list of numbers, as 2,1,1 is") from None
