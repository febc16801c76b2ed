"""Cuts a Hugging Face checkpoint into one HDF5 slab a rank.

    python -m weights_tools.split CHECKPOINT SLABS --ranks 4

Reads every byte of the checkpoint once and writes about as many; memory stays below a gigabyte whatever the size
of the model. Interrupted, it goes on where it was when it is started again.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tpi_mpi import command
from tpi_mpi.arguments import Parser
from tpi_mpi.errors import UserError, say
from tpi_mpi.files import copy_file
from tpi_mpi.tokenizer import TOKENIZER_FILES
from weights_tools import journal

DTYPES = ("keep", "float32", "bfloat16", "float16")
LATER_DTYPES = ("int8", "int4")
SMALL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)


def split_parser() -> Parser:
    parser = Parser(prog="python -m weights_tools.split", description="Cuts a checkpoint into one slab a rank.")
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", type=Path, help="directory with config.json and safetensors files")
    add("slabs", metavar="SLABS", type=Path, help="directory to write; new or empty")
    add_partition_arguments(parser, required=True)
    ratios = "choose the shares by what tpi_mpi.check wrote of the machines"
    add("--ratios-from", metavar="CHECK.json", type=Path, help=ratios)
    add("--dtype", default="keep", choices=(*DTYPES, *LATER_DTYPES), help="of the weights (default: as they are)")
    add("--force", action="store_true", help="replace slabs that are in SLABS already")
    return parser


def add_partition_arguments(parser: Parser, required: bool) -> None:
    parser.add_argument("--ranks", metavar="N", type=int, required=required, help="number of slabs")
    parser.add_argument("--ratios", metavar="R,R,...", type=ratios_argument, help="shares of the ranks, as in 2,1,1")


def ratios_argument(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def check_ranks(ranks: int) -> None:
    if ranks < 1:
        raise UserError(f"--ranks is {ranks}; at least 1 is needed")


def prepare_target(target: Path, force: bool) -> None:
    """Makes the directory. Raises UserError where it holds anything but an interrupted split, unless ``force``."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is not a directory; name another one")
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()) and not (target / journal.NAME).exists() and not force:
        raise UserError(f"{target} is not empty; name another directory, or give --force to replace the slabs in it")
    if force:
        remove_slabs(target)


def remove_slabs(target: Path) -> None:
    """Removes what an earlier split wrote, its manifest first, so that it never looks whole."""
    for pattern in ("manifest.json", "rank[0-9]*.h5"):
        for path in sorted(target.glob(pattern)):
            path.unlink()


def copy_small_files(source: Path, target: Path) -> None:
    """What a run needs besides the slabs, so that the checkpoint is no longer needed."""
    for name in SMALL_FILES:
        if (source / name).is_file():
            copy_file(source / name, target / name)
    if not any((target / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        say(f"{source} has no tokenizer; prompts will have to be given as prompt_token_ids")


def chosen_ratios(checkpoint, options) -> tuple[float, ...] | None:
    """The ratios that suit the machines of --ratios-from. Says them, and what is expected of them."""
    from weights_tools.ratios import CheckReport, choose, describe

    report = CheckReport(options.ratios_from, checkpoint.config, options.ranks)
    dtypes = checkpoint.dtypes if options.dtype == "keep" else dict.fromkeys(checkpoint.dtypes, options.dtype)
    choice = choose(checkpoint.config, dtypes, report.machines, report.work)
    for line in describe(choice, report):
        say(line)
    return choice.ratios


def split(arguments: Sequence[str] | None = None) -> None:
    options = split_parser().parse_args(arguments)
    check_ranks(options.ranks)
    if options.dtype in LATER_DTYPES:
        raise UserError(f"--dtype {options.dtype} is not supported yet; use one of {', '.join(DTYPES)}")
    if options.slabs.resolve() == options.checkpoint.resolve():
        raise UserError(f"{options.slabs} is the checkpoint itself; name another directory for the slabs")
    if options.ratios is not None and options.ratios_from is not None:
        raise UserError("give either --ratios or --ratios-from")

    from tpi_mpi.partition import Partition
    from weights_tools.checkpoint import Checkpoint
    from weights_tools.cut import cut

    checkpoint = Checkpoint(options.checkpoint)
    ratios = chosen_ratios(checkpoint, options) if options.ratios_from else options.ratios
    partition = Partition.of(checkpoint.config, options.ranks, ratios)
    prepare_target(options.slabs, options.force)
    copy_small_files(checkpoint.directory, options.slabs)
    cut(checkpoint, options.slabs, partition, options.dtype)


if __name__ == "__main__":
    sys.exit(command.run(split))
