"""Cuts a Hugging Face checkpoint into one HDF5 slab per rank.

    python -m weights_tools.split CHECKPOINT SLABS --ranks 4

Reads every byte of the checkpoint once and writes about as many; memory stays below a gigabyte whatever the size
of the model. Interrupted, it resumes when it is started again.

With --with-draft it reads the checkpoint once more, and writes SLABS/draft: slabs of the same model in fewer bits, cut
alike, to draft tokens with. Where only these are missing, it writes them alone.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.groups import add_ignore_key
from tpi_mpi.cli.parser import Parser
from tpi_mpi.cli.program import run_alone
from tpi_mpi.common.errors import UserError, say
from tpi_mpi.kernels.formats import FLOATS
from tpi_mpi.tokenizer.files import SENTENCEPIECE, TOKENIZER_JSON
from tpi_mpi.weights.slabs.stored_formats import KEEP
from weights_tools.common.format_arguments import QUANTIZED, add_format_arguments, check_formats, stored_formats
from weights_tools.common.partition_arguments import add_partition_arguments, check_ranks


def main(arguments: Sequence[str] | None = None) -> int:
    return run_alone(split, arguments)


def split_parser() -> Parser:
    parser = Parser(prog="python -m weights_tools.split", description="Cuts a checkpoint into one slab per rank.")
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", type=Path, help="directory with config.json and safetensors files")
    add("slabs", metavar="SLABS", type=Path, help="directory to write; new or empty")
    add_partition_arguments(parser, required=True)
    ratios = "choose the ratios that suit the machines in this report of tpi_mpi.check"
    add("--ratios-from", metavar="CHECK.json", type=Path, help=ratios)
    add_format_arguments(parser, (KEEP, *FLOATS, *QUANTIZED), KEEP)
    draft = "also write SLABS/draft: the same model in this dtype, to draft tokens with"
    add("--with-draft", choices=QUANTIZED, help=draft)
    add_ignore_key(parser)
    add("--force", action="store_true", help="replace slabs that are already in SLABS")
    return parser


def split(arguments: Sequence[str] | None = None) -> None:
    options = split_parser().parse_args(arguments)
    _check(options)

    from tpi_mpi.model.blocks import all_blocks
    from tpi_mpi.model.partition import Partition
    from weights_tools.common.target_directory import prepare_for_slabs, read_small_files, write_small_files
    from weights_tools.splitting.checkpoint_config import read_config

    config = read_config(options.checkpoint, options.ignore_key)
    Partition.of(config, options.ranks, options.ratios)  # whether the model can be dealt so
    if options.with_draft and config.experts:
        raise UserError(
            "--with-draft is not built for mixtures of experts: a draft must fit into memory whole, beside the model; "
            "leave it out"
        )

    from weights_tools.splitting.checkpoint import Checkpoint  # with torch, which mistakes need not wait for
    from weights_tools.splitting.cut import cut

    checkpoint = Checkpoint(options.checkpoint, options.ignore_key)
    formats = stored_formats(options, checkpoint.formats)
    ratios = _chosen_ratios(config, formats, options) if options.ratios_from else options.ratios
    partition = formats.partition(config, options.ranks, ratios)
    checkpoint.quantization.check_kept(all_blocks(config, partition), formats)
    draft = _draft(checkpoint, partition, formats, options) if options.with_draft else None
    small_files = read_small_files(checkpoint.directory)
    if options.force or not (draft and draft.alone_is_missing):
        prepare_for_slabs(options.slabs, options.force)
        write_small_files(options.slabs, small_files)
        if not {TOKENIZER_JSON, SENTENCEPIECE} & set(small_files):
            say(f"{checkpoint.directory} has no tokenizer; prompts will have to be given as prompt_token_ids")
        cut(checkpoint, options.slabs, partition, formats, beside=draft.nbytes if draft else 0)
    if draft:
        draft.write(small_files)


def _check(options: Namespace) -> None:
    check_ranks(options.ranks)
    check_formats(options)
    if options.slabs.resolve() == options.checkpoint.resolve():
        raise UserError(f"{options.slabs} is the checkpoint itself; name another directory for the slabs")
    if options.ratios is not None and options.ratios_from is not None:
        raise UserError("give either --ratios or --ratios-from")


def _draft(checkpoint, partition, formats, options: Namespace):
    """The draft that is asked for. Raises UserError if it makes no sense."""
    from weights_tools.splitting.draft import Draft, draft_formats

    own = draft_formats(formats, options.with_draft, options.group or 32, options.zero_points)
    draft = Draft(checkpoint, options.slabs, partition, formats, own)
    draft.check()
    return draft


def _chosen_ratios(config, formats, options: Namespace) -> tuple[float, ...] | None:
    """The ratios that suit the machines of --ratios-from; says which, and what to expect of them."""
    from weights_tools.splitting.ratios import CheckReport, choose, describe

    report = CheckReport(options.ratios_from, config, options.ranks)
    choice = choose(config, formats, report.machines, report.work)
    for line in describe(choice, report):
        say(line)
    return choice.ratios


if __name__ == "__main__":
    sys.exit(main())
