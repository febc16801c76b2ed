"""Checks slabs: every checksum and, given the checkpoint, that the slabs rejoin to it.

    python -m weights_tools.verify SLABS [--checkpoint CHECKPOINT]

They must do so bit for bit, but for tensors that split has rounded to int8 or int4: of these, the largest and the mean
error are printed. Reads every byte of the slabs (and of the checkpoint) once. Exit status 0 means that they are intact.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.arguments import Parser
from tpi_mpi.cli.program import run_alone
from tpi_mpi.common.errors import say


def verify_parser() -> Parser:
    parser = Parser(prog="python -m weights_tools.verify", description="Checks that slabs are as they were written.")
    parser.add_argument("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    parser.add_argument("--checkpoint", type=Path, help="compare with the checkpoint")
    return parser


def verify(arguments: Sequence[str] | None = None) -> None:
    options = verify_parser().parse_args(arguments)

    from tpi_mpi.weights.slabs.directory import Manifest, open_slabs

    slabs = open_slabs(options.slabs)

    from weights_tools.splitting.checkpoint import Checkpoint  # imports torch, which mistakes need not wait for
    from weights_tools.verification.checksums import check_blocks
    from weights_tools.verification.deviation import table, worst
    from weights_tools.verification.rejoin import compare

    check_blocks(slabs)
    deviations, also = {}, ""
    if options.checkpoint:
        deviations = compare(slabs, Checkpoint(options.checkpoint, Manifest.load(options.slabs).ignored_keys))
        also = " and equal the checkpoint"
    if deviations:
        print(table(deviations), flush=True)
        name = worst(deviations)
        also += f" but for rounding: {name} is off by {deviations[name].mean:.6f} in the mean, more than any other"
    say(f"{len(slabs)} slabs are intact{also}")


if __name__ == "__main__":
    sys.exit(run_alone(verify))
