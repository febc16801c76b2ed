"""The output file: one JSON object per finished request, each on disk before the next request begins."""

import fcntl
import json
import os
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.engine.completion import Completion
from tpi_mpi.offline.prompts import Prompt

# How every record begins: this identifies a line that was cut off while it was being written.
_START = b'{"id": '


class Records:
    """Appends records to a file, in which an interrupted run finds what it has already done. A context manager.

    Raises UserError, on construction, if the file cannot be written, holds anything but records, or is in use.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            self._file = open(path, "a+b")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None
        try:
            self._lock()
            self._answered = self._recover()
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

    def _recover(self) -> dict[str | int, dict]:
        """Reads the file's records, by id; drops a last line that was cut off while it was being written."""
        self._file.seek(0)
        content = self._file.read()
        end = content.rfind(b"\n") + 1
        complete, cut_off = content[:end], content[end:]
        try:
            if not _START.startswith(cut_off[: len(_START)]):
                raise ValueError("the last line is no record")
            records = [json.loads(line) for line in complete.splitlines() if line.strip()]
            answered = {record["id"]: record for record in records}
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{self._path} is not an output file of this program; name another one") from None
        self._file.truncate(len(complete))
        return answered

    def remaining(self, prompts: list[Prompt]) -> list[Prompt]:
        """The prompts without a record. Raises UserError if a record answers another prompt under the same id."""
        rest = []
        for prompt in prompts:
            record = self._answered.get(prompt.id)
            if record is None:
                rest.append(prompt)
            elif not _answers(record, prompt):
                raise UserError(f"{self._path} answers another prompt under id {prompt.id!r}; name another file")
        return rest

    def write(self, record: dict) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


def record_of(prompt: Prompt, completion: Completion, logprobs: bool) -> dict:
    """The record of a finished request; ``logprobs``: whether the log-probabilities of its tokens are included."""
    record: dict = {"id": prompt.id, "prompt": prompt.text}
    if prompt.token_ids is not None:
        record["prompt_token_ids"] = list(prompt.token_ids)
    record["text"] = completion.text
    record["token_ids"] = [token.id for token in completion.tokens]
    record["finish_reason"] = completion.finish_reason
    if logprobs:
        record["logprobs"] = [token.logprob for token in completion.tokens]
    return record


def _answers(record: dict, prompt: Prompt) -> bool:
    given_ids = list(prompt.token_ids) if prompt.token_ids else None
    return record.get("prompt") == prompt.text and record.get("prompt_token_ids") == given_ids
