"""The options that say how a model is dealt to ranks, of every program that writes slabs."""

from tpi_mpi.cli.arguments import Parser
from tpi_mpi.common.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")


def add_partition_arguments(parser: Parser, required: bool) -> None:
    parser.add_argument("--ranks", metavar="N", type=int, required=required, help="number of slabs")
    parser.add_argument(
        "--ratios", metavar="R,R,...", type=_ratios, help="what each rank gets of the rest, as in 2,1,1"
    )


def check_ranks(ranks: int) -> None:
    if ranks < 1:
        raise UserError(f"--ranks is {ranks}; at least 1 is needed")


def _ratios(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
