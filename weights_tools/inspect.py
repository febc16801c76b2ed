"""Shows what is in a directory of slabs: the model, the partition, the blocks, the bytes of each rank, the draft.

    python -m weights_tools.inspect SLABS [--json]

Reads the slabs' headers only.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.parser import Parser
from tpi_mpi.cli.program import run_alone


def main(arguments: Sequence[str] | None = None) -> int:
    return run_alone(inspect, arguments)


def inspect_parser() -> Parser:
    parser = Parser(prog="python -m weights_tools.inspect", description="Shows what is in a directory of slabs.")
    parser.add_argument("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def inspect(arguments: Sequence[str] | None = None) -> None:
    options = inspect_parser().parse_args(arguments)

    from weights_tools.inspection.description import describe  # with h5py, which help need not wait for
    from weights_tools.inspection.table import table

    what = describe(options.slabs)
    print(json.dumps(what, indent=2) if options.json else table(what), flush=True)


if __name__ == "__main__":
    sys.exit(main())
