import numpy as np
import pytest

from tpi_mpi.kernels.formats import WHOLE_ROW, Format, Tiled
from tpi_mpi.kernels.packing import INT4_ZERO, dequantize, pack, unpack
from tpi_mpi.kernels.quantization import quantize, searched
from tpi_mpi.kernels.scales import slow_search
from tpi_mpi.kernels.scales.candidates import Candidates

FORMATS = [
    Format(dtype, group, "float16", zero_points)
    for dtype in ("int8", "int4")
    for group in (32, 64, 128, WHOLE_ROW)
    for zero_points in (False, True)
]
every_format = pytest.mark.parametrize("format", FORMATS, ids=str)
symmetric = pytest.mark.parametrize("format", [format for format in FORMATS if not format.zero_points], ids=str)
HIGHEST = {"int8": 127, "int4": 7}


def normal(*shape: int, seed: int = 0, scale: float = 0.02) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def by_groups(values: np.ndarray, format: Format) -> list[np.ndarray]:
    edges = range(format.group, values.shape[1], format.group) if format.group else []
    return np.split(values, edges, axis=1)


def squared_errors(values: np.ndarray, stored: np.ndarray, format: Format) -> np.ndarray:
    """By row and group, in float64."""
    return np.stack([(part**2).sum(1) for part in by_groups(stored.astype(float) - values, format)], axis=1)


def from_largest_value(values: np.ndarray, format: Format) -> np.ndarray:
    """What the usual scale, largest magnitude divided by the largest code, makes of the numbers."""
    highest, stored = HIGHEST[format.dtype], []
    for part in by_groups(values, format):
        scale = (np.abs(part).max(1, keepdims=True) / highest).astype(np.float16).astype(np.float32)
        stored.append(np.clip(np.rint(part / scale), -highest - 1, highest) * scale)
    return np.concatenate(stored, axis=1)


@every_format
def test_compiled_and_slow_search_find_the_same(format):
    groups = np.concatenate([normal(40, 128, seed=seed, scale=10.0**-seed) for seed in range(9)])
    groups = np.concatenate([groups, np.abs(groups), np.zeros((1, 128), np.float32), groups.round(1), groups * 1e8])
    tried = Candidates.of(format)
    for found, expected in zip(searched(groups, tried), slow_search.search_scales(groups, tried), strict=True):
        np.testing.assert_array_equal(found, expected)


@every_format
@pytest.mark.parametrize("columns", [256, 200, 31, 1])
def test_codes_scales_and_zero_points_are_what_the_format_says(format, columns):
    values = normal(5, columns)
    rows = quantize(values, format)
    groups = -(-columns // format.group) if format.group else 1
    assert rows.values.shape == values.shape
    assert rows.values.dtype == (np.int8 if format.dtype == "int8" else np.uint8)
    assert rows.scales.shape == (5, groups)
    assert rows.scales.dtype == np.float16
    assert (rows.zero_points is not None) == format.zero_points
    if format.zero_points:
        assert rows.zero_points.shape == (5, groups)
        assert rows.zero_points.dtype == np.float16
        np.testing.assert_array_equal(rows.zero_points, rows.zero_points.round())
    if format.dtype == "int4":
        assert rows.values.max() <= 15
        assert not format.zero_points or (rows.zero_points.min() >= 0 and rows.zero_points.max() <= 15)


@every_format
def test_rows_go_through_the_packed_layout(format):
    rows, layout = quantize(normal(20, 200), format), Tiled(format, 20, 200)
    again = unpack(pack(rows, layout), layout)
    for array, expected in zip(again.arrays, rows.arrays, strict=True):
        np.testing.assert_array_equal(array, expected)


@symmetric
def test_the_error_of_no_group_is_above_that_of_the_largest_value(format):
    values = normal(64, 1000)
    found = squared_errors(values, dequantize(quantize(values, format), format), format)
    usual = squared_errors(values, from_largest_value(values, format), format)
    assert (found <= usual * 1.001).all()
    assert found.sum() < usual.sum() * (0.98 if format.dtype == "int8" else 0.8)


@every_format
def test_zero_points_help_numbers_that_lie_on_one_side(format):
    values = np.abs(normal(16, 256))
    if format.zero_points:
        without = Format(format.dtype, format.group, "float16")
        errors = [((dequantize(quantize(values, one), one) - values) ** 2).sum() for one in (format, without)]
        assert errors[0] < errors[1] / 2


@every_format
def test_what_is_quantized_already_comes_back(format):
    random = np.random.default_rng(1)
    first, last = (-128, 127) if format.dtype == "int8" else (0, 15)
    codes = random.integers(first, last, (6, 256), endpoint=True)
    codes[:, ::32], codes[:, 1::32] = first, last  # each group uses the whole range
    zero = random.integers(first + 1, last) if format.zero_points else 0 if format.dtype == "int8" else INT4_ZERO
    values = ((codes - zero) * np.float32(np.float16(0.0123))).astype(np.float32)
    rows = quantize(values, format)
    np.testing.assert_array_equal(dequantize(rows, format), values)


@every_format
def test_zeros_have_scale_zero(format):
    values = normal(3, 256)
    values[1] = 0
    rows = quantize(values, format)
    assert not rows.scales[1].any()
    assert rows.scales[0].all()
    np.testing.assert_array_equal(dequantize(rows, format)[1], values[1])


@every_format
@pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-7, 1e-9, 1e-38, 1e-44])
def test_numbers_near_and_below_the_smallest_scale_are_never_worse_than_zeros(format, scale):
    values = normal(4, 256, scale=scale)
    stored = dequantize(quantize(values, format), format)
    assert np.isfinite(stored).all()
    assert (squared_errors(values, stored, format) <= squared_errors(values, 0 * values, format)).all()
    assert np.abs(stored - values).max() <= max(2.0**-25, np.abs(values).max() / 3)  # cut short at 7 of 10


@every_format
def test_numbers_beyond_the_largest_scale_stay_finite(format):
    stored = dequantize(quantize(np.float32([[3e38, -1e38, 1, 0] * 8]), format), format)
    assert np.isfinite(stored).all()


@every_format
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_an_error(format, bad):
    values = normal(4, 100)
    values[3, 97] = bad
    with pytest.raises(ValueError, match="not finite"):
        quantize(values, format)
    with pytest.raises(ValueError, match="not finite"):
        slow_search.search_scales(values, Candidates.of(format))


@every_format
def test_without_numba_the_result_is_the_same(format, monkeypatch):
    values = normal(7, 300)
    expected = quantize(values, format)
    monkeypatch.setattr("tpi_mpi.kernels.quantization.find_spec", lambda name: None)
    for array, other in zip(quantize(values, format).arrays, expected.arrays, strict=True):
        np.testing.assert_array_equal(array, other)
