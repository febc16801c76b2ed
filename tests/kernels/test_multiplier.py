"""Laws: compiled products equal the slow ones; a row's result is the same whatever the other rows are."""

import numpy as np
import pytest
from operands import FORMATS, random_operand

from tpi_mpi.kernels.compiled.multiplier import Multiplier
from tpi_mpi.kernels.cpu import this_cpu
from tpi_mpi.kernels.fallback import Fallback, dequantized
from tpi_mpi.kernels.formats import Format, Tiled
from tpi_mpi.kernels.operand import Operand

ROWS, COLUMNS, START = 37, 100, 40  # which divide nothing
# The largest error, as a part of the largest result: of float32, of two planes, of one, of states in bfloat16.
EXACT, TWO_PLANES, ONE_PLANE, ROUNDED = 1e-6, 1e-4, 3e-2, 1e-2
INTEGERS = ("int8", "int4", "mxfp4")


@pytest.fixture(scope="module", params=[1, 2], ids=["one plane", "two planes"])
def planes(request):
    return request.param


@pytest.fixture(scope="module")
def multiply(planes):
    with Multiplier(2, planes) as multiplier:
        yield multiplier


def layout(format: Format) -> Tiled:
    return Tiled.cut(format, ROWS, START, START + COLUMNS)


def states(count: int, columns: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, columns), np.float32)


def error(results: np.ndarray, rows: np.ndarray, operand: Operand) -> float:
    expected = rows.astype(np.float64) @ dequantized(operand).astype(np.float64).T
    return float(np.abs(results - expected).max() / np.abs(expected).max())


def tolerance(format: Format, planes: int) -> float:
    return {1: ONE_PLANE, 2: TWO_PLANES}[planes] if format.dtype in INTEGERS else EXACT


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_products_equal_the_slow_ones(multiply, planes, format):
    operand, rows = random_operand(layout(format)), states(11)
    allowed = ROUNDED if format.dtype == "bfloat16" and this_cpu().bfloat16 else tolerance(format, planes)
    assert error(multiply(rows, operand), rows, operand) < allowed


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_rows_are_independent(multiply, format):
    operand, rows = random_operand(layout(format)), states(19)
    together = multiply(rows, operand)
    for count in (*range(1, 10), 17):
        assert np.array_equal(multiply(rows[:count], operand), together[:count])
    assert np.array_equal(multiply(rows[5:8], operand), together[5:8])


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("count", [3, 100])
def test_threads_change_nothing(planes, format, count):
    operand, rows = random_operand(Tiled(format, 16 * 40, 64)), states(count, 64)
    results = []
    for threads in (1, 2, 5):
        with Multiplier(threads, planes) as multiply:
            results.append(multiply(rows, operand))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_several_operands_at_once_are_as_one_after_the_other(multiply):
    format = Format.of("int4")
    operands = [random_operand(Tiled(format, rows, 64), seed) for seed, rows in enumerate((48, 16, 20))]
    rows = states(2, 64)
    for one, operand in zip(multiply.several(rows, operands), operands, strict=True):
        assert np.array_equal(one, multiply(rows, operand))


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_stays_in_its_row(multiply, format, value):
    operand, rows = random_operand(layout(format)), states(3)
    expected = multiply(rows, operand)
    rows[1, 17] = value
    results = multiply(rows, operand)
    assert not np.isfinite(results[1]).any()
    assert np.array_equal(results[::2], expected[::2])


def spoiled(operand: Operand, part: int, place: tuple[int, ...], value: float) -> Operand:
    """The same matrix with another number in one place of a part."""
    parts = [array.copy() for array in operand.parts]
    kind = parts[part].dtype.str
    bits = {"<u2": np.float32(value).view(np.uint32) >> 16, "|u1": 255}  # bfloat16, e8m0
    parts[part][place] = bits.get(kind, value)
    return Operand(operand.layout, parts)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_and_scales_that_are_no_numbers_stay_in_their_outputs(multiply, format, value):
    operand, rows = random_operand(Tiled(format, 40, 128)), states(3, 128)
    expected, others = multiply(rows, operand), np.arange(40) != 16 + 5
    for part in range(1, len(operand.parts)) if format.packed else [0]:
        place = (1, 0, 5, 0)[: operand.parts[part].ndim]  # the second tile's sixth row, in its first group
        results = multiply(rows, spoiled(operand, part, place, value))
        assert not np.isfinite(results[:, 16 + 5]).any()
        assert np.array_equal(results[:, others], expected[:, others])


@pytest.mark.parametrize("format", [Format.of("int8"), Format.of("int4"), Format.of("int4", 32, True)], ids=str)
def test_denormal_scales_count(multiply, planes, format):
    operand, rows = random_operand(Tiled(format, 16, 64)), states(2, 64)
    operand.parts[1][:] = np.float16(6e-8) * np.arange(1, 17).astype(np.float16)
    assert error(multiply(rows, operand), rows, operand) < tolerance(format, planes)


@pytest.mark.parametrize("exponent", [0, 1, 250])
def test_extreme_powers_of_two_count(multiply, planes, exponent):
    operand, rows = (
        random_operand(Tiled(Format.of("mxfp4"), 16, 32)),
        states(2, 32) * np.float32(2.0 ** (10 - exponent / 10)),
    )
    operand.parts[1][:] = exponent
    assert error(multiply(rows, operand), rows, operand) < tolerance(operand.layout.format, planes)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_bases_need_no_alignment(multiply, format):
    operand, rows = random_operand(layout(format)), states(2)
    buffer = bytearray(operand.nbytes + 4 * len(operand.parts))
    offsets, end = [], 0
    for part in operand.parts:
        offsets.append(end + part.itemsize)  # numpy wants this much
        end = offsets[-1] + part.nbytes
        buffer[offsets[-1] : end] = part.tobytes()
    moved = Operand.of(operand.layout, buffer, tuple(offsets))
    assert np.array_equal(multiply(rows, moved), multiply(rows, operand))


def test_states_of_zeros_and_tiny_ones_give_no_nonsense(multiply):
    operand = random_operand(Tiled(Format.of("int4"), 16, 64))
    assert np.array_equal(multiply(np.zeros((2, 64), np.float32), operand), np.zeros((2, 16)))
    assert np.isfinite(multiply(np.full((1, 64), 1e-42, np.float32), operand)).all()


def test_the_same_product_with_other_lengths_and_other_weights(multiply):
    """Prepared products are remembered; what they remember must not be mixed up."""
    format, rows = Format.of("int8"), states(40, 96)
    layouts = [Tiled(format, 64, 96), Tiled(format, 48, 96)]
    operands = [random_operand(layout, seed) for layout in layouts for seed in (1, 2)]
    slow = Fallback()
    for count in (1, 40, 2, 33, 1):
        for operand in operands:
            expected = slow(rows[:count], operand)
            assert np.allclose(multiply(rows[:count], operand), expected, atol=0.2)


def test_states_of_another_width_or_type_are_a_mistake(multiply):
    operand = random_operand(Tiled(Format.of("int4"), 16, 64))
    with pytest.raises(AssertionError, match="states of 32 inputs"):
        multiply(states(1, 32), operand)
    with pytest.raises(AssertionError, match="not float32"):
        multiply(states(1, 64).astype(np.float64), operand)
