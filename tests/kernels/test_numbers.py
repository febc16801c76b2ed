"""Laws of conversions: torch's bits, with compiled loops and without; and bytes in groups that both make alike."""

import numpy as np
import pytest
import torch

from tpi_mpi.kernels import numbers
from tpi_mpi.kernels.formats import FLOATS
from tpi_mpi.kernels.linear import kernels_available
from tpi_mpi.kernels.numbers import GROUP, add, add_scaled, narrow, scale, scaled_bytes, unscale, widen

HALVES = ("bfloat16", "float16")
COUNTS = (0, 1, 7, 127, 128, 129, 1000)


@pytest.fixture(params=["compiled", "plain"])
def ways(request, monkeypatch) -> None:
    if request.param == "plain":
        monkeypatch.setattr(numbers, "_loops", lambda: None)
    elif not kernels_available():
        pytest.skip("there are no kernels here")


def plainly(monkeypatch, function, *arguments):
    with monkeypatch.context() as without:
        without.setattr(numbers, "_loops", lambda: None)
        return function(*arguments)


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Float32 of all sizes, with everything that is special among them."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**32, count, np.uint32).view(np.float32)  # any bits
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 6e-8, 65504, 65519.9, 65520, 1e38])
    places = rng.random(count) < 0.3
    values[places] = rng.choice(special.astype(np.float32), places.sum())
    return values


def tensor_of(stored: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(stored.view(np.int16).copy()).view(getattr(torch, dtype))


def narrowed(values: np.ndarray, dtype: str) -> np.ndarray:
    out = np.empty(values.shape, FLOATS[dtype])
    narrow(values, dtype, out)
    return out


def assert_same_numbers(found: np.ndarray, expected: np.ndarray) -> None:
    """Bit for bit, except that a NaN is a NaN."""
    none = np.isnan(expected)
    assert np.array_equal(np.isnan(found), none)
    assert np.array_equal(found[~none].view(np.uint32), expected[~none].view(np.uint32))


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("dtype", HALVES)
def test_every_number_of_16_bits_becomes_what_it_is(dtype):
    stored = np.arange(2**16, dtype=np.uint16).view(FLOATS[dtype])
    expected = tensor_of(stored, dtype).float().numpy()
    assert_same_numbers(widen(stored, dtype), expected)
    again = narrowed(expected, dtype)
    finite = ~np.isnan(expected)
    assert np.array_equal(again.view(np.uint16)[finite], stored.view(np.uint16)[finite])
    assert np.isnan(widen(again, dtype)[~finite]).all()


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("dtype", HALVES)
def test_halfway_numbers_become_even_and_others_the_nearest(dtype):
    """Halfway between all neighbours, and a float32's step to either side of that."""
    bits = np.arange(2**16 - 1, dtype=np.uint16)
    with np.errstate(invalid="ignore", over="ignore"):  # some of them are none
        here, following = (widen(some.view(FLOATS[dtype]), dtype).astype(float) for some in (bits, bits + 1))
        between = ((here + following) / 2).astype(np.float32)
        values = np.concatenate([between, *(np.nextafter(between, np.float32(to)) for to in (np.inf, -np.inf))])
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    assert_same_numbers(widen(narrowed(values, dtype), dtype), expected)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("count", COUNTS)
def test_any_number_of_any_bits_is_rounded_as_torch_does(dtype, count):
    values = samples(count)
    expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
    assert_same_numbers(widen(narrowed(values, dtype), dtype), expected)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("count", [*COUNTS, 100_000])
def test_both_ways_give_the_same_bits(dtype, count, monkeypatch):
    values = samples(count, seed=1)
    stored = narrowed(values, dtype)
    assert stored.tobytes() == plainly(monkeypatch, narrowed, values, dtype).tobytes()
    every = np.arange(2**16, dtype=np.uint16).view(FLOATS[dtype])
    for some in (stored, every):
        assert widen(some, dtype).tobytes() == plainly(monkeypatch, widen, some, dtype).tobytes()


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_are_added_as_what_they_are(dtype):
    values = np.random.default_rng(2).standard_normal(333).astype(np.float32)
    total = np.linspace(-1, 1, 333, dtype=np.float32)
    stored = narrowed(values, dtype)
    expected = total + widen(stored, dtype)
    add(stored, dtype, total)
    assert np.array_equal(total, expected)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("dtype", FLOATS)
def test_shapes_stay_and_neither_order_nor_place_matters(dtype):
    values = np.random.default_rng(3).standard_normal((6, 10)).astype(np.float32)
    expected = narrowed(values, dtype)
    assert expected.shape == widen(expected, dtype).shape == (6, 10)
    transposed = np.asfortranarray(values)
    assert np.array_equal(narrowed(transposed, dtype), expected)
    assert np.array_equal(widen(np.asfortranarray(expected), dtype), widen(expected, dtype))
    raw = np.empty(1 + expected.nbytes, np.uint8)
    raw[1:] = expected.view(np.uint8).ravel()
    moved = raw[1:].view(FLOATS[dtype])  # at an odd address
    assert np.array_equal(widen(moved, dtype), widen(expected, dtype).ravel())
    moved.setflags(write=False)
    out = np.empty((6, 10), np.float32)
    assert widen(moved, dtype, out) is out
    assert np.array_equal(out, widen(expected, dtype))


def test_what_float32_is_already_is_not_copied():
    values = np.ones(3, np.float32)
    assert widen(values, "float32") is values


@pytest.mark.skipif(not kernels_available(), reason="there are no kernels here")
@pytest.mark.parametrize("dtype", HALVES)
def test_compiled_code_goes_beyond_no_array(dtype):
    values, wide = np.ones(8, np.float32), np.empty((8, 2), FLOATS[dtype])
    for out in (wide[:, 0], wide[:3].ravel(), wide):
        with pytest.raises(AssertionError):
            narrow(values, dtype, out)


def scaled(values: np.ndarray) -> np.ndarray:
    message = np.full(scaled_bytes(values.size), 0xAB, np.uint8)
    scale(values, message)
    return message


def groups(count: int, seed: int = 0) -> np.ndarray:
    """Groups of all sizes: zeros, numbers that are hardly any, and some that are not finite."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(count) * 10.0 ** rng.integers(-44, 38, -(-count // GROUP)).repeat(GROUP)[:count]
    values[(np.arange(count) // GROUP) % 5 == 3] = 0
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    values[rng.random(count) < 1 / (20 * GROUP)] = np.nan
    values[rng.random(count) < 1 / (20 * GROUP)] = -np.inf
    return values


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("count", COUNTS)
def test_bytes_in_groups_are_a_scale_and_the_nearest_levels(count):
    values = np.random.default_rng(4).standard_normal(count).astype(np.float32)
    message = scaled(values)
    for first in range(0, count, GROUP):
        group, record = values[first : first + GROUP], message[first // GROUP * 132 :][:132]
        step = abs(group).max() / np.float32(127)
        assert record[:4].view(np.float32) == step
        levels = torch.from_numpy(group / step).round().to(torch.int8).numpy()
        assert record[4:].view(np.int8).tolist() == [*levels.tolist(), *[0] * (GROUP - len(group))]
        assert np.array_equal(unscale(message, np.empty(count, np.float32))[first : first + GROUP], levels * step)


@pytest.mark.usefixtures("ways")
def test_levels_are_even_at_equal_distances():
    values = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5], np.float32)
    assert scaled(values)[4:12].view(np.int8).tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_group_that_is_not_finite_is_none_and_its_neighbours_are_as_they_were(odd):
    values = np.random.default_rng(5).standard_normal(3 * GROUP).astype(np.float32)
    whole = unscale(scaled(values), np.empty(values.size, np.float32))
    values[GROUP + 9] = odd
    found = unscale(scaled(values), np.empty(values.size, np.float32))
    assert np.isnan(found[GROUP : 2 * GROUP]).all()
    assert np.array_equal(np.delete(found.reshape(3, -1), 1, 0), np.delete(whole.reshape(3, -1), 1, 0))


@pytest.mark.parametrize("count", [*COUNTS, 100_000])
def test_both_ways_make_the_same_bytes_in_groups(count, monkeypatch):
    values = groups(count)
    message = scaled(values)
    assert message.tobytes() == plainly(monkeypatch, scaled, values).tobytes()
    both = []
    for _ in range(2):
        total = np.full(count, np.float32(0.3))
        add_scaled(message, total)
        both.append((unscale(message, np.empty(count, np.float32)), total))
        monkeypatch.setattr(numbers, "_loops", lambda: None)
    for compiled, plain in zip(*both, strict=True):
        assert_same_numbers(compiled, plain)
