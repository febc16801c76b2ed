"""The progress of long work, in bytes, on standard error."""

import sys

from tqdm import tqdm


def bytes_bar(total: int, name: str, done: int = 0) -> tqdm:
    """A bar that moves on a terminal, or a line now and then in a log.

    total: bytes of the work. done: those that an earlier run did.
    """
    seconds = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=name, mininterval=seconds)
