"""The errors that a person is meant to read: one sentence each, with an exit status."""

import sys


class TpiError(Exception):
    """A failure that is not the user's mistake. Shown as one line, without a traceback."""

    status = 1


class DiskHung(TpiError):
    """A disk has stopped responding. A thread still waits for it, so the process can only be killed."""


class UserError(TpiError):
    """The user's mistake. The message names the value, the limit and the remedy."""

    status = 2


class TooLong(UserError):
    """A prompt that there is no room for."""


class CheckpointError(UserError):
    """The checkpoint lacks what a request needs: no other request of the kind can be done either."""


def say(line: str) -> None:
    """Prints one line on standard error, in a single write so that lines of several ranks do not mix."""
    sys.stderr.write(f"tpi_mpi: {' '.join(line.split())}\n")
    sys.stderr.flush()
