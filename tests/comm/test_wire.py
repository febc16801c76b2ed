"""Laws of the wires: no number arrives farther off than is promised."""

import pytest
import torch

from tpi_mpi.comm.wire import wire
from tpi_mpi.common.options import WIRES

# Of the size of the number, and besides; for int8 of the largest of a group.
RELATIVE = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-11}
SMALLEST = {"float32": 0.0, "bfloat16": 1e-40, "float16": 3e-8}


def passed(values: torch.Tensor, name: str) -> torch.Tensor:
    way = wire(name)
    message = torch.empty(way.nbytes(values.numel()), dtype=torch.uint8)
    way.write(values, message)
    return way.read(message, values.numel()).float().view(values.shape)


def samples() -> torch.Tensor:
    """Like hidden states: mostly small, a few large, some nothing."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(33, 100, generator=generator) * torch.rand(33, 1, generator=generator).mul(20).sub(10).exp()
    values[::7, ::5] *= 100
    values[3] = 0
    return values.clamp(-6e4, 6e4)


def test_the_wires_are_the_ones_that_can_be_asked_for():
    for name in WIRES:
        assert wire(name).nbytes(128) > 0
    with pytest.raises(KeyError):
        wire("int4")


@pytest.mark.parametrize("name", RELATIVE)
def test_a_plain_number_arrives_within_its_error(name):
    values = samples()
    error = (passed(values, name).double() - values.double()).abs()
    assert (error <= RELATIVE[name] * values.double().abs() + SMALLEST[name]).all()
    assert name == "float32" or error.max() > 0


def test_a_scaled_number_arrives_within_a_254th_of_its_groups_largest():
    values = samples()
    error = (passed(values, "int8").double() - values.double()).abs().flatten()
    for group, errors in zip(values.flatten().split(128), error.split(128), strict=True):
        assert errors.max() <= group.abs().max().double() / 254 * (1 + 1e-5)


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("count", [1, 127, 128, 129, 1000])
def test_parts_cut_at_whole_groups_arrive_as_in_the_whole(name, count):
    way, values = wire(name), samples().flatten()[:count]
    message = torch.empty(way.nbytes(count), dtype=torch.uint8)
    way.write(values, message)
    whole, cut = way.read(message, count), min(count, 3 * way.group)
    parts = message[: way.nbytes(cut)], message[way.nbytes(cut) :]
    assert torch.equal(torch.cat([way.read(parts[0], cut), way.read(parts[1], count - cut)]), whole)


@pytest.mark.parametrize("name", WIRES)
def test_what_is_not_finite_does_not_become_a_number(name):
    values = samples()
    values[5, 5] = float("nan")
    assert not passed(values, name)[5, 5].isfinite()


@pytest.mark.parametrize("name", WIRES)
def test_numbers_too_small_or_too_large_for_it_stay_near(name):
    tiny, huge = torch.full((128,), 1e-42), torch.full((128,), -1e6)
    assert passed(tiny, name).abs().max() <= 1e-7
    assert passed(huge, name).max() <= -65504
