"""Random matrices in every format, for tests of kernels and of what uses them."""

import numpy as np

from tpi_mpi.kernels.formats import FLOATS, SCALES, STORED_AS, Format, Tiled
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.packing import Rows, pack

FORMATS = [
    *(Format(dtype) for dtype in FLOATS),
    *(Format.of("int8", group) for group in (0, 32, 64, 128)),
    Format("int8", 32, "float32", zero_points=True),
    *(Format.of("int4", group, zeros) for group in (0, 32, 64, 128) for zeros in (False, True)),
    Format.of("mxfp4"),
    Format.of("float8"),
    Format("float8", 0, "float32"),
]


def random_rows(layout: Tiled, rng: np.random.Generator) -> Rows:
    """Rows in the layout's format, with weights of about 1."""
    format, shape = layout.format, layout.shape
    if not format.packed:
        return Rows(_numbers(format.dtype, shape, rng))
    whole = layout.lead + layout.columns
    groups = (layout.rows, -(-whole // format.group) if format.group else 1)
    zeros = rng.integers(0, 16, groups).astype(SCALES[format.scales]) if format.zero_points else None
    return Rows(_codes(format.dtype, shape, rng), _scales(format, groups, rng), zeros)


def _numbers(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    numbers = rng.standard_normal(shape, np.float32)
    return (numbers.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else numbers.astype(FLOATS[dtype])


def _codes(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    match dtype:
        case "int8":
            codes = rng.integers(-128, 128, shape)
        case "float8":
            codes = rng.choice([code for code in range(256) if code & 127 != 127], shape)
        case _:
            codes = rng.integers(0, 16, shape)
    return codes.astype(STORED_AS[dtype])


def _scales(format: Format, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if format.scales == "e8m0":
        return rng.integers(122, 130, shape).astype(np.uint8)
    size = {"int8": 127, "int4": 8, "float8": 100}[format.dtype]
    return ((0.5 + rng.random(shape)) / size).astype(SCALES[format.scales])


def random_operand(layout: Tiled, seed: int = 0) -> Operand:
    return Operand(layout, pack(random_rows(layout, np.random.default_rng(seed)), layout))
