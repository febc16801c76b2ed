"""Checks slabs: every checksum and, given the checkpoint, that the slabs rejoin to it.

    python -m weights_tools.verify SLABS [--checkpoint CHECKPOINT]

They must do so bit for bit, but for tensors that split has rounded to int8 or int4: of these, the largest and the mean
error are printed. Reads every byte of the slabs (and of the checkpoint) once. Exit status 0 means that they are intact.
A draft in SLABS is checked with them; for it, the checkpoint is read once more.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.parser import Parser
from tpi_mpi.cli.program import run_alone
from tpi_mpi.common.errors import say


def main(arguments: Sequence[str] | None = None) -> int:
    return run_alone(verify, arguments)


def verify_parser() -> Parser:
    parser = Parser(prog="python -m weights_tools.verify", description="Checks that slabs are as they were written.")
    parser.add_argument("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    parser.add_argument("--checkpoint", type=Path, help="compare with the checkpoint")
    return parser


def verify(arguments: Sequence[str] | None = None) -> None:
    options = verify_parser().parse_args(arguments)

    from tpi_mpi.weights.slabs.directory import has_draft, open_draft, open_slabs

    slabs = open_slabs(options.slabs)
    draft = open_draft(options.slabs, slabs[0]) if has_draft(options.slabs) else []

    from weights_tools.verification.checksums import check_blocks
    from weights_tools.verification.deviation import table, worst

    check_blocks([*slabs, *draft])
    deviations, also = {}, ""
    if options.checkpoint:
        deviations = _deviations(options.slabs, options.checkpoint, slabs, draft)
        also = " and equal the checkpoint"
    if deviations:
        print(table(deviations), flush=True)
        name = worst(deviations)
        also += f" but for rounding: {name} is off by {deviations[name].mean:.6f} in the mean, more than any other"
    drafting = f" and {len(draft)} of their draft" if draft else ""
    say(f"{len(slabs)} slabs{drafting} are intact{also}")


def _deviations(directory: Path, source: Path, slabs: Sequence, draft: Sequence) -> dict:
    """How far rounded tensors are from the checkpoint's, by name; those of the draft have its directory before it."""
    from tpi_mpi.weights.slabs.directory import DRAFT, Manifest
    from weights_tools.splitting.checkpoint import Checkpoint  # imports torch, which mistakes need not wait for
    from weights_tools.verification.rejoin import compare

    checkpoint = Checkpoint(source, Manifest.load(directory).ignored_keys)
    found = compare(slabs, checkpoint)
    if draft:
        found |= {f"{DRAFT}/{name}": deviation for name, deviation in compare(draft, checkpoint).items()}
    return found


if __name__ == "__main__":
    sys.exit(main())
