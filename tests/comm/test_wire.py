"""Laws of the wires: no number arrives farther off than is promised."""

import numpy as np
import pytest

from tpi_mpi.comm.wire import wire
from tpi_mpi.common.options.machine import WIRES

# Of the size of the number, and besides; for int8 of the largest of a group.
RELATIVE = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-11}
SMALLEST = {"float32": 0.0, "bfloat16": 1e-40, "float16": 3e-8}


def sent(values: np.ndarray, name: str) -> np.ndarray:
    """The message that carries some values."""
    way = wire(name, 128)
    message = np.empty(way.nbytes(values.size), np.uint8)
    way.write(values, message)
    return message


def passed(values: np.ndarray, name: str) -> np.ndarray:
    return wire(name, 128).read(sent(values, name), values.size).reshape(values.shape)


def samples() -> np.ndarray:
    """Like hidden states: mostly small, a few large, some nothing."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((33, 100)) * np.exp(20 * rng.random((33, 1)) - 10)
    values[::7, ::5] *= 100
    values[3] = 0
    return np.clip(values, -6e4, 6e4).astype(np.float32)


def errors(name: str, values: np.ndarray) -> np.ndarray:
    return abs(passed(values, name).astype(float) - values.astype(float))


def test_the_wires_are_the_ones_that_can_be_asked_for():
    for name in WIRES:
        assert wire(name, 128).nbytes(128) > 0
    with pytest.raises(KeyError):
        wire("int4", 128)


@pytest.mark.parametrize("name", RELATIVE)
def test_a_plain_number_arrives_within_its_error(name):
    values = samples()
    found = errors(name, values)
    assert (found <= RELATIVE[name] * abs(values.astype(float)) + SMALLEST[name]).all()
    assert name == "float32" or found.max() > 0


def test_a_scaled_number_arrives_within_a_254th_of_its_groups_largest():
    values = samples()
    found = errors("int8", values).ravel()
    for first in range(0, values.size, 128):
        group = values.ravel()[first : first + 128]
        assert found[first : first + 128].max() <= float(abs(group).max()) / 254 * (1 + 1e-5)


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("count", [1, 127, 128, 129, 1000])
def test_parts_cut_at_whole_groups_arrive_as_in_the_whole(name, count):
    way, values = wire(name, 128), samples().ravel()[:count]
    message = sent(values, name)
    whole, cut = way.read(message, count), min(count, 3 * way.group)
    parts = message[: way.nbytes(cut)], message[way.nbytes(cut) :]
    assert np.array_equal(np.concatenate([way.read(parts[0], cut), way.read(parts[1], count - cut)]), whole)


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("count", [1, 127, 128, 129, 1000])
def test_a_message_is_copied_and_added_as_it_is_read(name, count):
    way, values = wire(name, 128), samples().ravel()[-count:]
    message, total = sent(values, name), np.full(count, np.float32(0.1))
    expected = total + way.read(message, count)
    way.add(message, total)
    assert total.tobytes() == expected.tobytes()
    way.copy(message, total)
    assert total.tobytes() == way.read(message, count).tobytes()


@pytest.mark.parametrize("name", WIRES)
def test_what_is_not_finite_does_not_become_a_number(name):
    values = samples()
    values[5, 5] = np.nan
    assert not np.isfinite(passed(values, name)[5, 5])


@pytest.mark.parametrize("name", WIRES)
def test_numbers_too_small_or_too_large_for_it_stay_near(name):
    tiny, huge = np.full(128, 1e-42, np.float32), np.full(128, -1e6, np.float32)
    assert abs(passed(tiny, name)).max() <= 1e-7
    assert passed(huge, name).max() <= -65504
