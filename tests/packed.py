"""Checkpoints whose matrices are stored in any format, and what transformers says of their weights."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import zoo

from tpi_mpi.kernels.formats import WHOLE_ROW, Format
from tpi_mpi.kernels.packing import Rows, dequantize
from tpi_mpi.model import names
from tpi_mpi.model.blocks import all_blocks
from tpi_mpi.model.partition import Partition
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.splitting.conversion import convert

FORMATS = {
    "float32": Format("float32"),
    "float16": Format("float16"),
    "bfloat16": Format("bfloat16"),
    "int8-32": Format.of("int8", 32),
    "int8-128": Format.of("int8", 128),
    "int8-rows": Format.of("int8", WHOLE_ROW),
    "int4-32": Format.of("int4", 32),
    "int4-64-zeros": Format.of("int4", 64, zero_points=True),
    "mxfp4": Format.of("mxfp4"),
    "float8": Format.of("float8"),
}
# Rows that come at a time: no multiple of a tile.
HEIGHT = 23


class PackedCheckpoint:
    """A source like :class:`Checkpoint`, with the matrices that states are multiplied with in one format.

    head: that of the output head, if it is another.
    """

    def __init__(self, directory: Path, format: Format, head: Format | None = None):
        self.directory = directory
        self._plain = Checkpoint(directory)
        self.name, self.config, self.ignored_keys = self._plain.name, self._plain.config, ()
        self.formats = dict(self._plain.formats)
        self._rows: dict[str, Rows] = {}
        matrices, others = set(), set()
        for block in all_blocks(self.config, Partition.of(self.config, 1)):
            for spec in block.tensors:
                (matrices if spec.multiplied else others).add(spec.source)
        for name in matrices - others:
            whole = Rows.joined(list(self._plain.pieces(name, 0, self._plain.shapes[name][0])))
            target = head if head and name == names.weight_of(names.LM_HEAD) else format
            self._rows[name] = packed(whole, self.formats[name], target)
            self.formats[name] = target

    def fingerprint(self) -> object:
        return str(self.directory)

    def pieces(self, name: str, start: int, stop: int) -> Iterator[Rows]:
        if name not in self._rows:
            yield from self._plain.pieces(name, start, stop)
            return
        for first in range(start, stop, HEIGHT):
            yield self._rows[name][first : min(first + HEIGHT, stop)]

    def weights(self) -> dict[str, torch.Tensor]:
        """Every packed matrix in float32, by name."""
        return {name: torch.from_numpy(dequantize(rows, self.formats[name])) for name, rows in self._rows.items()}

    def referee(self) -> list[dict]:
        """As of zoo.py."""
        return zoo.answers_with(self.directory, self.weights())


def packed(rows: Rows, source: Format, target: Format) -> Rows:
    """Weights in any format, mxfp4 and float8 by the scales that the largest of a group asks for."""
    if target.dtype in ("mxfp4", "float8"):
        return _by_largest(rows.values, target)
    return convert(rows, source, target, "a matrix")


def _by_largest(values: np.ndarray, format: Format) -> Rows:
    codes = np.arange(16 if format.dtype == "mxfp4" else 254, dtype=np.uint8)
    one = np.full((1, 1), 127 if format.scales == "e8m0" else 1, np.uint8)
    numbers = dequantize(Rows(codes[None], one), Format(format.dtype, WHOLE_ROW, format.scales))[0]
    groups = np.pad(values, ((0, 0), (0, -values.shape[1] % format.group))).reshape(len(values), -1, format.group)
    scales = np.abs(groups).max(2) / np.nanmax(numbers) + 1e-9
    if format.scales == "e8m0":
        exponents = np.ceil(np.log2(scales))
        scales, stored = np.exp2(exponents), (exponents + 127).astype(np.uint8)
    else:
        stored = scales.astype(np.float32)
    distance = np.abs(groups[..., None] / scales[:, :, None, None] - np.nan_to_num(numbers, nan=1e9))
    nearest = codes[distance.argmin(-1)].reshape(len(values), -1)
    return Rows(np.ascontiguousarray(nearest[:, : values.shape[1]]), stored)
