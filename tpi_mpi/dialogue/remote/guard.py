"""A program that ends with whoever started it.

    python -m tpi_mpi.dialogue.remote.guard SECONDS COMMAND...

Standard input is a pipe of which the owner holds the other end, and never writes to it. Once that is closed, because
the owner has let go of it or was killed, the command is terminated, and killed if it has not ended within SECONDS.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status of the command: 128 and its number if a signal ended it."""
    grace, *command = arguments
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_owner, args=[program, float(grace)], daemon=True).start()
    status = program.wait()
    return status if status >= 0 else 128 - status


def _end_with_owner(program: subprocess.Popen, grace: float) -> None:
    os.read(sys.stdin.fileno(), 1)
    program.terminate()
    try:
        program.wait(grace)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
