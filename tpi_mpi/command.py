"""How the programs that run without mpirun end."""

import sys
import traceback
from collections.abc import Callable

from tpi_mpi.errors import TpiError, say


def run(program: Callable[[], None]) -> int:
    """Runs a program; returns its exit status, with one line on standard error for whatever went wrong."""
    try:
        program()
    except TpiError as error:
        say(str(error))
        return error.status
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        sys.stdout = None  # nobody reads on; leave nothing to be flushed at exit
        return 1
    except Exception as error:
        traceback.print_exc()
        say(f"{type(error).__name__}: {error}")
        return 1
    return 0
