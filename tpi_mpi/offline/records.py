"""The output file: one JSON object per finished request, on disk before the next sweep begins."""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.offline.hashes import HashSet, hash_of
from tpi_mpi.offline.prompts import Mistake, Prompt
from tpi_mpi.offline.record import START, is_of_mistake, line_of


class Records:
    """Appends records to a file, in which an interrupted run finds what it has already done. A context manager.

    Of the records that were there before, only hashes are kept: of their ids, and of these with their prompts.

    Raises UserError, on construction, if the file cannot be written, holds anything but records, or is in use.
    """

    def __init__(self, path: Path):
        self._path = path
        self._ids, self._prompts, self._mistakes = HashSet(), HashSet(), HashSet()
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        try:
            self._lock()
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        """Reserves the file for this run: two runs would repeat every answer and truncate each other's records."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self._path} is being written by another run; wait until that has ended, or name another file"
            ) from None
        except OSError:
            pass  # not every network filesystem knows locks

    def _recover(self) -> None:
        """Reads the file's records; drops a last line that was cut off while it was being written."""
        self._file.seek(0)
        try:
            complete = sum(map(self._remember, self._file))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(f"{self._path} is not an output file of this program; name another one") from None
        self._file.truncate(complete)

    def _remember(self, line: bytes) -> int:
        """Notes what one line answers; returns the bytes of it that are to be kept.

        Raises ValueError, TypeError, KeyError or RecursionError if it is no record.
        """
        if not line.endswith(b"\n"):
            if not START.startswith(line[: len(START)]):
                raise ValueError("the last line is no record")
            return 0
        if line.strip():
            record = json.loads(line)
            content = record["id"], record.get("prompt"), record.get("prompt_token_ids")
            if is_of_mistake(record):
                self._mistakes.add(hash_of(*content))
            else:
                self._ids.add(hash_of(record["id"]))
                self._prompts.add(hash_of(*content))
        return len(line)

    def answered(self, entry: Prompt | Mistake) -> bool:
        """Whether there was a record of it. Raises UserError if one answers another prompt under the same id.

        The record of a mistake answers nothing else, so that a prompt is done once it has been put right.
        """
        if isinstance(entry, Mistake):
            return hash_of(entry.id, entry.text, None) in self._mistakes
        if hash_of(entry.id, entry.text, entry.token_ids) in self._prompts:
            return True
        if hash_of(entry.id) in self._ids:
            raise UserError(f"{self._path} answers another prompt under id {entry.id!r}; name another file")
        return False

    def write(self, records: Iterable[dict]) -> None:
        """Appends records, and returns when they are on the disk."""
        self._file.write(b"".join(map(line_of, records)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
