"""GGUF files, llama.cpp's, written piece by piece: what a model is, then its tensors one after another."""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.packing import Rows, dequantize

_ALIGNMENT = 32
_VERSION = 3


@dataclass(frozen=True)
class Kind:
    """How numbers are stored. number: GGUF's for this kind. together: numbers of a block, which has so many bytes."""

    number: int
    together: int
    nbytes: int


FLOAT32 = Kind(0, 1, 4)
KINDS = {
    "float32": FLOAT32,
    "float16": Kind(1, 1, 2),
    "bfloat16": Kind(30, 1, 2),
    "int4 by 32": Kind(2, 32, 18),  # q4_0
    "int8 by 32": Kind(8, 32, 34),  # q8_0
}
"""The kind that has the very numbers of a format, by its name."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file. pieces: its rows in order, in a format; made when they are written."""

    name: str
    shape: Sequence[int]
    kind: Kind
    format: Format
    pieces: Iterable[Rows]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) // self.kind.together * self.kind.nbytes


def write(path: Path, keys: Mapping[str, object], tensors: Sequence[Tensor]) -> Iterator[int]:
    """Writes the file; yields how many bytes each piece has, as it is written."""
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(keys)))
        for key, value in keys.items():
            file.write(_string(key) + _value(value))
        offset = 0
        for tensor in tensors:
            file.write(_description(tensor, offset))
            offset += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
        for tensor in tensors:
            yield from _data(file, tensor)


def _data(file: BinaryIO, tensor: Tensor) -> Iterator[int]:
    file.write(bytes(-file.tell() % _ALIGNMENT))
    began = file.tell()
    for rows in tensor.pieces:
        yield file.write(memoryview(stored(rows, tensor.kind, tensor.format)).cast("B"))
    assert file.tell() - began == tensor.nbytes, tensor.name


def stored(rows: Rows, kind: Kind, format: Format) -> np.ndarray:
    """The rows as the file has them."""
    if kind is FLOAT32:
        return np.ascontiguousarray(dequantize(rows, format))
    if not format.packed:
        return np.ascontiguousarray(rows.values)
    groups = rows.values.reshape(*rows.scales.shape, format.group)
    if format.dtype == "int4":  # the second half of a group in the high bits
        half = format.group // 2
        groups = groups[..., :half] | groups[..., half:] << 4
    scales = np.ascontiguousarray(rows.scales)[..., None].view(np.uint8)
    return np.concatenate([scales, groups.view(np.uint8)], axis=-1)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: object) -> bytes:
    match value:
        case str():
            return struct.pack("<I", 8) + _string(value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
    raise TypeError(f"no key may be {value!r}")


def _description(tensor: Tensor, offset: int) -> bytes:
    axes = tuple(reversed(tensor.shape))
    numbers = struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, tensor.kind.number, offset)
    return _string(tensor.name) + numbers
