"""Atomic file replacement, so that a file is either as it was or complete: written aside, synced, renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tpi_mpi.common.errors import UserError


def replace_file(path: Path, content: str | bytes, writer: str = "") -> None:
    """Replaces the content of ``path`` in one step. Raises UserError if it cannot be written.

    writer: a name for this process, if several processes may replace the file at once.
    """
    with _replacing(path, writer) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def check_writable(path: Path) -> None:
    """Raises UserError if :func:`replace_file` would fail for lack of a writable directory."""
    directory = path.resolve().parent
    if not _is_device(path) and (path.is_dir() or not os.access(directory, os.W_OK)):
        raise UserError(f"{path} cannot be written; name a file in a directory that exists and can be written to")


def partial_name(path: Path, writer: str = "") -> Path:
    """The name of a file while it is being written."""
    return path.with_name(f".{path.name}{writer}.partial")


def publish(path: Path, writer: str = "") -> None:
    """Renames a complete file from its partial name to ``path``, once its bytes are on the disk."""
    with open(partial_name(path, writer), "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial_name(path, writer), path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes renames inside the directory survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_device(path: Path) -> bool:
    """Whether the path is something, such as a pipe, that can be written to but not replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def _replacing(path: Path, writer: str = "") -> Iterator[BinaryIO]:
    """A file to write to, which becomes ``path`` when the with-block ends without an error."""
    try:
        if _is_device(path):
            with open(path, "wb") as file:
                yield file
            return
        path = path.resolve()  # a symbolic link keeps pointing to the file
        with open(partial_name(path, writer), "wb") as file:
            yield file
        publish(path, writer)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
