"""The journal of a split: what is already done, so that an interrupted split can be resumed."""

import json
import os
from pathlib import Path


class Journal:
    """A file with a line for each block that all slabs hold; readers check its claims against the slabs.

    entries: block name -> {"checksums": [one per rank, or null], "digests": {source tensor: digest}}, in order.
    resumed: whether the journal is that of an earlier, interrupted split of the same ``job``.
    """

    def __init__(self, path: Path, job: dict):
        self._path = path
        self.entries = self._read(job)
        self.resumed = self.entries is not None
        if self.entries is None:
            self.entries = {}
            path.write_text(json.dumps(job) + "\n", encoding="utf-8")
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by remove and close)

    def _read(self, job: dict) -> dict[str, dict] | None:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return None
        values = []
        for line in lines:
            try:
                values.append(json.loads(line))
            except ValueError:
                break  # cut off while it was being written
        if not values or values[0] != json.loads(json.dumps(job)):
            return None
        return {entry["block"]: entry for entry in values[1:]}

    def add(self, block: str, checksums: list[str | None], digests: dict[str, str]) -> None:
        self._file.write(json.dumps({"block": block, "checksums": checksums, "digests": digests}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Removes the journal of a complete split."""
        self.close()
        os.unlink(self._path)
