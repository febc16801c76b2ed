"""Law: a matrix comes back from its tiles as it was, in every format and in every shape."""

import numpy as np
import pytest
import torch
from operands import FORMATS, random_rows

from tpi_mpi.kernels.formats import STORED_AS, Format, Tiled
from tpi_mpi.kernels.packing import E2M1, E4M3, Rows, dequantize, pack, unpack

SHAPES = [(48, 256, 0), (37, 100, 40), (5, 7, 3), (16, 32, 128)]


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(("rows", "columns", "start"), SHAPES)
def test_unpacking_undoes_packing(format, rows, columns, start):
    layout = Tiled.cut(format, rows, start, start + columns)
    given = random_rows(layout, np.random.default_rng(0))
    parts = pack(given, layout)
    assert [(part.shape, part.dtype.str) for part in parts] == [(part.shape, part.dtype) for part in layout.parts]
    assert sum(part.nbytes for part in parts) == layout.nbytes
    for before, after in zip(given.arrays, unpack(parts, layout).arrays, strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_tiles_of_some_rows_are_those_of_all(format):
    layout = Tiled(format, 64, 96)
    rows = random_rows(layout, np.random.default_rng(1))
    whole, halves = pack(rows, layout), [pack(rows[:32], layout), pack(rows[32:], layout)]
    for part, *pieces in zip(whole, *halves, strict=True):
        assert np.array_equal(part, np.concatenate(pieces))


@pytest.mark.parametrize("format", [format for format in FORMATS if format.packed], ids=str)
@pytest.mark.parametrize(("start", "stop"), [(0, 256), (32, 64), (40, 140), (200, 256)])
def test_weights_are_the_same_whatever_the_cut(format, start, stop):
    whole = Tiled(format, 16, 256)
    rows = random_rows(whole, np.random.default_rng(2))
    layout = Tiled.cut(format, 16, start, stop)
    cut = unpack(pack(rows.columns(start, stop, format.group), layout), layout)
    assert np.array_equal(dequantize(cut, format, layout.lead), dequantize(rows, format)[:, start:stop])


@pytest.mark.parametrize("dtype", STORED_AS)
def test_every_axis_is_told(dtype):
    layout = Tiled(Format.of(dtype), 16, 128)
    assert len(layout.axes.partition(";")[0].split(", ")) == len(layout.parts[0].shape)


def test_an_int4_byte_holds_inputs_sixteen_apart():
    codes = np.zeros((16, 32), np.uint8)
    codes[3, 4 * 2 + 1], codes[3, 16 + 4 * 2 + 1] = 5, 9
    scales = np.ones((16, 1), np.float16)
    tile = pack(Rows(codes, scales), Tiled(Format.of("int4"), 16, 32))[0][0]
    assert tile[2, 3, 1] == 5 | 9 << 4
    assert np.count_nonzero(tile) == 1


def test_float8_means_what_torch_means():
    codes = torch.arange(256, dtype=torch.uint8)
    assert np.array_equal(E4M3, codes.view(torch.float8_e4m3fn).float().numpy(), equal_nan=True)


def test_mxfp4_has_its_sixteen_values():
    assert list(E2M1) == [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]


def test_powers_of_two_reach_from_end_to_end():
    format = Format.of("mxfp4")
    rows = Rows(np.full((3, 32), 2, np.uint8), np.array([[0], [127], [254]], np.uint8))
    assert dequantize(rows, format)[:, 0].tolist() == [2.0**-127, 1.0, 2.0**127]
