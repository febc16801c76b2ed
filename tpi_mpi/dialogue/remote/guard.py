"""A program that ends with whoever started it.

    python -m tpi_mpi.dialogue.remote.guard DIRECTORY SECONDS COMMAND...

Standard input is a pipe of which the owner holds the other end, and never writes to it. Once that is closed, because
the owner has let go of it or was killed, or at SIGTERM, the command is terminated, and killed if it has not ended
within SECONDS. Once it has ended, the directory is removed. If the guard itself is killed, Linux ends the command.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

# Of prctl: the signal that a process gets when the one that has started it is gone.
_SIGNAL_OF_PARENTS_END = 1


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status of the command: 128 and its number if a signal ended it."""
    directory, grace, *command = arguments
    try:
        status = _run(command, float(grace))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _run(command: Sequence[str], grace: float) -> int:
    over = threading.Event()
    # Before any thread, so that the new process may run Python for a moment.
    program = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_bound_to_this_process()
    )
    signal.signal(signal.SIGTERM, lambda number, frame: over.set())
    threading.Thread(target=_await_owner, args=[over], daemon=True).start()
    threading.Thread(target=_end, args=[over, program, grace], daemon=True).start()
    return program.wait()


def _bound_to_this_process() -> Callable[[], None] | None:
    """What a new process calls so that it is terminated as soon as this one is gone; None where nothing does that."""
    if sys.platform != "linux":
        return None
    prctl, guard = ctypes.CDLL(None).prctl, os.getpid()

    def bind() -> None:
        prctl(_SIGNAL_OF_PARENTS_END, ctypes.c_ulong(signal.SIGTERM))
        if os.getppid() != guard:  # gone before that
            os._exit(128 + signal.SIGTERM)

    return bind


def _await_owner(over: threading.Event) -> None:
    os.read(sys.stdin.fileno(), 1)
    over.set()


def _end(over: threading.Event, program: subprocess.Popen, grace: float) -> None:
    over.wait()
    program.terminate()
    try:
        program.wait(grace)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
