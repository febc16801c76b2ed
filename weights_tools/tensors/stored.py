"""A tensor in a safetensors file, read by ranges of its rows."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from tpi_mpi.common.errors import TpiError
from tpi_mpi.kernels.packing import Rows
from weights_tools.common.pieces import rows_at_once

Loaded = Callable[[int, int], np.ndarray]
"""Gives the rows from one up to but not including another of what has been loaded."""

# The numpy type in which each dtype is read; bfloat16 and E4M3 have none of their own.
_READ_AS = {
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "|u1",
    "I64": "<i8",
    "I32": "<i4",
    "I8": "|i1",
    "U8": "|u1",
}


@dataclass(frozen=True)
class Stored:
    """Where a tensor is, and what.

    name: that it has in its file. dtype: as safetensors spells it. offset: of its first byte in the file.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(_READ_AS[self.dtype]).itemsize

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The rows from ``start`` up to ``stop``, as stored. Raises TpiError if the disk cannot deliver them."""
        first, last, _ = slice(start, stop).indices(self.shape[0] if self.shape else 1)
        numbers = np.empty((last - first, *self.shape[1:]), _READ_AS[self.dtype])
        offset = self.offset + first * prod(self.shape[1:]) * numbers.itemsize
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(offset)
                _fill(memoryview(numbers.reshape(-1)).cast("B"), file)
        except OSError as error:
            raise TpiError(f"tensor {self.name} in {self.path} cannot be read: {error}") from None
        return numbers

    def pieces(self, start: int, stop: int) -> Iterator[Rows]:
        """The rows from ``start`` up to ``stop``, some at a time. Raises as :meth:`read` does."""
        step = rows_at_once(prod(self.shape[1:]))
        for first in range(start, stop, step):
            yield Rows(self.read(first, min(first + step, stop)))

    def floats(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The same rows as numbers: float16 as it is, all others as float32."""
        numbers = self.read(start, stop)
        return (numbers.astype(np.uint32) << 16).view(np.float32) if self.dtype == "BF16" else numbers


def _fill(room: memoryview, file: io.RawIOBase) -> None:
    """Reads as many bytes as there is room for. Raises OSError where the file has fewer."""
    while room:
        count = file.readinto(room)
        if not count:
            raise OSError("the file ends in it; download it again")
        room = room[count:]


def stored_tensors(path: Path) -> dict[str, Stored]:
    """Every tensor of a safetensors file, by name. The file's header must have been checked."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: Stored(name, path, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }
