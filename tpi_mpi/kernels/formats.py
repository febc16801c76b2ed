"""The formats of weights, and how a matrix lies in memory in each of them: what can be told without touching a number.

In every format, 16 output rows lie side by side, so that one load brings the same input's weights of 16 outputs, and no
sum has to be taken across a register. Nothing here depends on the CPU. docs/slab-format.md draws the layouts.
"""

import re
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod

TILE = 16
"""Output rows that lie side by side."""

UNIT = 32
"""Inputs are padded to a multiple of this many, or of the group."""

GROUPS = (32, 64, 128)
"""The numbers of inputs that may share a scale."""

WHOLE_ROW = 0
"""The group of a format with one scale for each row."""

FLOATS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
CODES = {"int8": "|i1", "int4": "|u1", "mxfp4": "|u1", "float8": "|u1"}
SCALES = {"float16": "<f2", "float32": "<f4", "e8m0": "|u1"}
STORED_AS = FLOATS | CODES
"""The numpy type in which each dtype is stored; bfloat16 and the packed dtypes have none of their own."""

# The dtypes that scales may have, and which formats may have zero points: what there are kernels for.
_SCALES_OF = {
    "int8": ("float16", "float32"),
    "int4": ("float16", "float32"),
    "mxfp4": ("e8m0",),
    "float8": ("float32",),
}
_WITH_ZERO_POINTS = ("int8", "int4")

# How the weights of a tile follow each other: the shape of one tile's numbers or bytes for 32 inputs, and the axes of a
# whole matrix for readers of a slab.
_BY_INPUT = (32, TILE), "rows / 16, inputs, 16 rows"
_BY_NIBBLE = (
    (4, TILE, 4),
    "rows / 16, inputs / 8, 16 rows, 4 bytes; byte (c, row, i) holds input 4c + i of its 32 in the low bits, "
    "and 16 + 4c + i in the high bits",
)
_ORDER = {
    "float32": _BY_INPUT,
    "float16": _BY_INPUT,
    "bfloat16": ((16, TILE, 2), "rows / 16, inputs / 2, 16 rows, 2 inputs"),
    "int8": ((8, TILE, 4), "rows / 16, inputs / 4, 16 rows, 4 inputs"),
    "int4": _BY_NIBBLE,
    "mxfp4": _BY_NIBBLE,
    "float8": _BY_INPUT,
}


@dataclass(frozen=True)
class Format:
    """What the numbers of a matrix are stored as.

    dtype: float32, float16, bfloat16, or one of the packed ones: a weight is then its code times the scale of its
        group. int8 (codes -128 to 127), int4 (codes 0 to 15, which stand for -8 to 7), mxfp4 (codes of E2M1), float8
        (E4M3).
    group: inputs that share a scale; :data:`WHOLE_ROW` for one scale a row.
    scales: dtype of the scales: float16, float32, or e8m0 (a power of two, from 2^-127 on).
    zero_points: whether each group also has a zero point, a code that stands for zero: a whole number, in the dtype of
        the scales; only in int8 and int4.

    Raises ValueError for a combination that there is no kernel for.
    """

    dtype: str
    group: int = WHOLE_ROW
    scales: str = ""
    zero_points: bool = False

    def __post_init__(self):
        if self.dtype in CODES:
            good = self.scales in _SCALES_OF[self.dtype] and self.zero_points <= (self.dtype in _WITH_ZERO_POINTS)
        else:
            good = self.dtype in FLOATS and self.group == WHOLE_ROW and not (self.scales or self.zero_points)
        if not good:
            raise ValueError(f"there is no format {self.to_json()}")

    @classmethod
    def of(cls, dtype: str, group: int = 32, zero_points: bool = False) -> "Format":
        """The format in which this program stores a dtype by itself."""
        match dtype:
            case "int8" | "int4":
                return cls(dtype, group, "float16", zero_points)
            case "mxfp4":
                return cls(dtype, 32, "e8m0")
            case "float8":
                return cls(dtype, 128, "float32")
            case _:
                return cls(dtype)

    @classmethod
    def parse(cls, text: str) -> "Format":
        """The format with this ``str``. Raises ValueError if there is none."""
        found = re.fullmatch(r"(\w+)(?: by (\d+|rows)( with zero points)?(?: (?:with|and) (\w+) scales)?)?", text)
        if found and found[1] in STORED_AS:
            own = cls.of(found[1])
            group = int(found[2]) if (found[2] or "rows") != "rows" else WHOLE_ROW
            format = replace(own, group=group, scales=found[4] or own.scales, zero_points=bool(found[3]))
            if str(format) == text:
                return format
        raise ValueError(f"{text!r} is no format")

    @property
    def packed(self) -> bool:
        """Whether weights are codes with scales."""
        return self.dtype in CODES

    @property
    def bits(self) -> float:
        """Of a weight and of its part of the scales and zero points, in rows of a usual length."""
        matrix = Tiled(self, TILE, 4096)
        return 8 * matrix.nbytes / matrix.elements

    def __str__(self) -> str:
        """For people, and for keys: ``int4 by 32 with zero points``. Scales are named if :meth:`of` gives others."""
        if not self.packed:
            return self.dtype
        usual = self.scales == Format.of(self.dtype).scales
        extras = [*(["zero points"] if self.zero_points else []), *([] if usual else [f"{self.scales} scales"])]
        return f"{self.dtype} by {self.group or 'rows'}{' with ' if extras else ''}{' and '.join(extras)}"

    def to_json(self) -> dict:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_json(cls, value: dict) -> "Format":
        return cls(**value)


@dataclass(frozen=True)
class Part:
    """One array of a stored tensor. name: what is appended to the tensor's. dtype: numpy's."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * int(self.dtype[2:])


@dataclass(frozen=True)
class Plain:
    """A vector, or a matrix that is read row by row: its numbers in C order."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def format(self) -> Format:
        return Format(self.dtype)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part("", FLOATS[self.dtype], self.shape),)

    @property
    def nbytes(self) -> int:
        return self.parts[0].nbytes

    @property
    def elements(self) -> int:
        """How many weights the tensor has."""
        return prod(self.shape)


@dataclass(frozen=True)
class Tiled:
    """A matrix that is multiplied with: ``rows`` outputs of ``columns`` inputs, in tiles of 16 rows.

    lead: inputs ahead of the first that are only padding. A rank's columns may begin inside a group of the whole
        matrix; with the lead, its groups are those of the whole matrix, and its weights the same whatever the cut.
    """

    format: Format
    rows: int
    columns: int
    lead: int = 0

    @classmethod
    def cut(cls, format: Format, rows: int, start: int, stop: int) -> "Tiled":
        """The layout of the columns from ``start`` up to ``stop`` of a matrix that has ``rows`` rows."""
        return cls(format, rows, stop - start, start % format.group if format.group else 0)

    @property
    def dtype(self) -> str:
        return self.format.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def elements(self) -> int:
        """How many weights the matrix has, without padding."""
        return self.rows * self.columns

    @property
    def axes(self) -> str:
        """Those of the codes, in words."""
        return _ORDER[self.dtype][1]

    @property
    def tiles(self) -> int:
        return -(-self.rows // TILE)

    @cached_property
    def inputs(self) -> int:
        """Columns with padding on both sides."""
        unit = max(UNIT, self.format.group)
        return -(-(self.lead + self.columns) // unit) * unit

    @property
    def groups(self) -> int:
        """Scales of a row."""
        return self.inputs // self.format.group if self.format.group else 1

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The arrays that the matrix consists of: codes (or numbers), scales, zero points."""
        first, *rest = _ORDER[self.dtype][0]
        shape = (self.tiles, self.inputs // UNIT * first, *rest)
        parts = [Part("", STORED_AS[self.dtype], shape)]
        if self.format.packed:
            shape = (self.tiles, self.groups, TILE)
            parts.append(Part(".scales", SCALES[self.format.scales], shape))
            if self.format.zero_points:
                parts.append(Part(".zero_points", SCALES[self.format.scales], shape))
        return tuple(parts)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


Layout = Plain | Tiled
"""How a tensor lies in memory."""
