"""Files that are either as they were or complete: written under a temporary name, synced, renamed."""

import os
from pathlib import Path

from tpi_mpi.errors import UserError


def replace_file(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` in one step. Raises UserError where the directory cannot be written to."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def sync_directory(directory: Path) -> None:
    """Makes renames inside the directory survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
