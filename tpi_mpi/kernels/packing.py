"""Rows of a matrix, from row-major order into the tiles that kernels read, and back.

The slow, obvious description of every format: kernels and slabs are tested against it.
"""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.kernels.formats import STORED_AS, TILE, UNIT, Format, Tiled

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([_E2M1, -_E2M1])
"""The values of the sixteen codes of mxfp4."""

INT4_ZERO = 8
"""The code of zero in int4 without zero points."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a matrix, in row-major order.

    values: (n, K), numbers as stored (bfloat16 as uint16), or codes of a packed format, one a byte.
    scales, zero_points: (n, groups that the columns touch); None where the format has none.
    """

    values: np.ndarray
    scales: np.ndarray | None = None
    zero_points: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def by_kind(self) -> tuple[np.ndarray | None, ...]:
        """Values, scales, zero points."""
        return self.values, self.scales, self.zero_points

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(array for array in self.by_kind if array is not None)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(*(None if array is None else array[rows] for array in self.by_kind))

    def columns(self, start: int, stop: int, group: int) -> "Rows":
        """The columns from ``start`` up to ``stop``, with the scales of every group that they touch.

        The rows must begin at the matrix's first column. group: of their format.
        """
        groups = slice(start // group, -(-stop // group)) if group else slice(None)
        scales, zeros = (None if array is None else array[:, groups] for array in self.by_kind[1:])
        return Rows(self.values[:, start:stop], scales, zeros)

    @classmethod
    def joined(cls, pieces: "list[Rows]") -> "Rows":
        """Consecutive rows as one."""
        arrays = zip(*(piece.by_kind for piece in pieces), strict=True)
        return cls(*(None if several[0] is None else np.concatenate(several) for several in arrays))


def pack(rows: Rows, layout: Tiled) -> list[np.ndarray]:
    """The parts of a matrix from all of its rows, in the shapes and types of ``layout.parts``.

    Given fewer rows, a multiple of 16, than the layout has: the same for as many tiles.
    """
    tiles = -(-len(rows) // TILE)
    after = layout.inputs - layout.lead - layout.columns
    values = _padded(rows.values, tiles, layout.lead, after)
    words = _words(values, layout.dtype).reshape(tiles, TILE, -1)
    codes = np.ascontiguousarray(words.transpose(0, 2, 1))  # (tiles, words, 16)
    first, *others = layout.parts
    parts = [codes.view(first.dtype).reshape(tiles, *first.shape[1:])]
    for array, part in zip(rows.arrays[1:], others, strict=True):
        scales = _padded(array, tiles, 0, 0).reshape(tiles, TILE, -1)
        parts.append(np.ascontiguousarray(scales.transpose(0, 2, 1), part.dtype))
    return parts


def _padded(array: np.ndarray, tiles: int, before: int, after: int) -> np.ndarray:
    missing = tiles * TILE - len(array)
    if not (missing or before or after):
        return np.ascontiguousarray(array)
    return np.pad(array, ((0, missing), (before, after)))


def _words(values: np.ndarray, dtype: str) -> np.ndarray:
    """(n, W): what lies side by side with the same of the other rows of a tile."""
    match dtype:
        case "int8" | "bfloat16":  # four or two inputs in 32 bits
            return values.view(np.uint32)
        case "int4" | "mxfp4":
            halves = values.reshape(len(values), -1, 2, UNIT // 2)
            return (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(len(values), -1).view(np.uint32)
        case _:
            return values


def unpack(parts: list[np.ndarray], layout: Tiled) -> Rows:
    """The opposite of :func:`pack`."""
    tiles = len(parts[0])
    rows = min(layout.rows, tiles * TILE)
    word = {"int8": np.uint32, "int4": np.uint32, "mxfp4": np.uint32, "bfloat16": np.uint32}.get(layout.dtype)
    codes = np.ascontiguousarray(parts[0]).reshape(tiles, -1)
    words = (codes.view(word) if word else codes).reshape(tiles, -1, TILE)
    values = _values(np.ascontiguousarray(words.transpose(0, 2, 1)), layout.dtype).reshape(tiles * TILE, -1)
    values = values[:rows, layout.lead : layout.lead + layout.columns]
    scales = [part.transpose(0, 2, 1).reshape(tiles * TILE, -1)[:rows] for part in parts[1:]]
    touched = layout.groups if not layout.format.group else -(-(layout.lead + layout.columns) // layout.format.group)
    return Rows(values, *(array[:, :touched] for array in scales))


def _values(words: np.ndarray, dtype: str) -> np.ndarray:
    """(tiles, 16, inputs), from words (tiles, 16, W)."""
    stored = np.dtype(STORED_AS[dtype])
    if dtype not in ("int4", "mxfp4"):
        return words.view(stored)
    pairs = words.view(np.uint8).reshape(*words.shape[:2], -1, UNIT // 2)
    return np.stack([pairs & 15, pairs >> 4], axis=-2).reshape(*words.shape[:2], -1)


def dequantize(rows: Rows, format: Format, lead: int = 0) -> np.ndarray:
    """The weights, float32 (n, K): for packed formats (code - zero point) * scale.

    lead: of the rows' layout, where their first column is not the first of its group.
    """
    numbers = _numbers(rows.values, format)
    if not format.packed:
        return numbers
    scales = scale_values(rows.scales, format)
    repeat = _repeater(format, lead, numbers.shape[1])
    if rows.zero_points is not None:
        numbers = numbers - repeat(rows.zero_points.astype(np.float32))
    elif format.dtype == "int4":
        numbers = numbers - np.float32(INT4_ZERO)
    return numbers * repeat(scales)


def _numbers(values: np.ndarray, format: Format) -> np.ndarray:
    match format.dtype:
        case "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        case "mxfp4":
            return E2M1[values]
        case "float8":
            return E4M3[values]
        case _:
            return values.astype(np.float32)


def scale_values(scales: np.ndarray, format: Format) -> np.ndarray:
    """Scales as float32."""
    if format.scales == "e8m0":
        return np.ldexp(np.float32(1), scales.astype(np.int32) - 127)
    return scales.astype(np.float32)


def _repeater(format: Format, lead: int, columns: int):
    """Makes one column for each weight of columns for each group."""
    if not format.group:
        return lambda array: array
    return lambda array: np.repeat(array, format.group, axis=1)[:, lead : lead + columns]


def _e4m3() -> np.ndarray:
    codes = np.arange(256, dtype=np.int64)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    values = np.where(exponent > 0, np.ldexp(8.0 + mantissa, exponent - 10), np.ldexp(1.0 * mantissa, -9))
    values = np.where((codes & 127) == 127, np.nan, values)
    return np.where(codes & 128, -values, values).astype(np.float32)


E4M3 = _e4m3()
"""The values of the 256 codes of float8; two of them are not a number."""
