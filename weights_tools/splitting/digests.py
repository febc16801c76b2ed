"""Digests of the tensors of a source, computed as they are read."""

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np
import xxhash

from tpi_mpi.kernels.packing import Rows

# What is appended to a tensor's name for each array that its rows consist of.
_ARRAYS = ("", ".scales", ".zero_points")


class Digests:
    """XXH3 (128 bits) of every tensor, the scales and zero points of a packed one apart.

    A tensor's rows are given in order, however they are cut, and perhaps more than once: a tied embedding is also the
    output head.
    """

    def __init__(self):
        self._hashers: dict[str, dict[str, xxhash.xxh3_128]] = defaultdict(dict)
        self._known: dict[str, Mapping[str, str]] = {}
        self._rows: Counter = Counter()

    def add(self, source: str, first: int, rows: Rows) -> None:
        """Some rows of a tensor, beginning with its row ``first``."""
        if source in self._known or first < self._rows[source]:
            return
        assert first == self._rows[source], f"{source} has its row {first} hashed after {self._rows[source]} rows"
        self._rows[source] += len(rows)
        for suffix, array in zip(_ARRAYS, rows.by_kind, strict=True):
            if array is not None:
                hasher = self._hashers[source].setdefault(f"{source}{suffix}", xxhash.xxh3_128())
                hasher.update(np.ascontiguousarray(array))

    def of(self, source: str) -> Mapping[str, str]:
        """The digests of one tensor's arrays so far, by name."""
        if source in self._known:
            return self._known[source]
        return {name: hasher.hexdigest() for name, hasher in self._hashers[source].items()}

    def take(self, source: str, digests: Mapping[str, str]) -> None:
        """Takes over what an interrupted split has computed."""
        self._known[source] = digests

    def whole(self) -> str:
        """One digest of all tensors, the same whatever the partition."""
        lines = {name: digest for source in {*self._hashers, *self._known} for name, digest in self.of(source).items()}
        whole = xxhash.xxh3_128()
        for name in sorted(lines):
            whole.update(f"{name} {lines[name]}\n".encode())
        return whole.hexdigest()
