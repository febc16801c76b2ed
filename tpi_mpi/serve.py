"""A server for OpenAI's protocol, with a page to chat on, for a model that several machines run together.

    python -m tpi_mpi.serve SLABS --ranks 4 --hostfile hosts

Run on the first machine of the hostfile, outside mpirun, which it starts itself, and again when a machine was lost. It
listens on this machine alone, unless told otherwise. Cost: that of tpi_mpi.generate, and 100 MB beside the first rank.
"""

import sys
from collections.abc import Sequence

from tpi_mpi.cli.program import run_alone
from tpi_mpi.cli.serving import parse_serve
from tpi_mpi.common.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    return run_alone(_serve, arguments)


def _serve(arguments: Sequence[str] | None) -> None:
    options = parse_serve(arguments)
    try:
        from tpi_mpi.serving.server import serve  # imports what help need not wait for
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'tpi_mpi[serve]' to serve") from None
    serve(options)


if __name__ == "__main__":
    sys.exit(main())
