"""The errors that a person is meant to read: one sentence each, and the exit status that goes with it."""

import sys


class TpiError(Exception):
    """Something failed that is not the user's mistake. Shown as one line, without a traceback."""

    status = 1


class DiskHung(TpiError):
    """A disk gives nothing any more. A thread still waits for it, so the process can only be killed."""


class UserError(TpiError):
    """The user's mistake. The message names the value, the limit and the remedy."""

    status = 2


def say(line: str) -> None:
    """One line on standard error, in one write so that those of several ranks do not mix."""
    sys.stderr.write(f"tpi_mpi: {' '.join(line.split())}\n")
    sys.stderr.flush()
