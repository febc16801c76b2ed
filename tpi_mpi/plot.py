"""Draws a trace or a report of generate or bench.

    python -m tpi_mpi.plot TRACE.json OUT.png [--sweep N]
    python -m tpi_mpi.plot REPORT.json OUT.png

Of a trace: the timeline of one sweep, which shows whether reading is hidden behind the rest; and memory over time,
beside the budget. Of a report: where each rank's time and memory went. Needs matplotlib.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.parser import Parser
from tpi_mpi.cli.program import run_alone
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.files import check_writable
from tpi_mpi.common.json_object import JsonObject


def main(arguments: Sequence[str] | None = None) -> int:
    return run_alone(plot, arguments)


def plot_parser() -> Parser:
    parser = Parser(prog="python -m tpi_mpi.plot", description="Draws a trace or a report.")
    parser.add_argument("source", metavar="TRACE|REPORT", type=Path, help="written by --trace or --report")
    parser.add_argument("out", metavar="OUT.png", type=Path, help="picture to write; its extension sets the format")
    parser.add_argument("--sweep", metavar="N", type=int, help="sweep of a trace (default: the last complete one)")
    return parser


def plot(arguments: Sequence[str] | None = None) -> None:
    options = plot_parser().parse_args(arguments)
    content = JsonObject.load(options.source)
    check_writable(options.out)
    try:
        from tpi_mpi.measurement import figures
    except ImportError:
        raise UserError("matplotlib is not installed; pip install matplotlib to draw") from None
    figures.save(figures.draw(content, options.sweep), options.out)


if __name__ == "__main__":
    sys.exit(main())
