"""Laws: compiled routers choose what the obvious one chooses, to the bit, whatever the CPU and however many rows."""

import numpy as np
import pytest

from tpi_mpi.kernels.blocks import Shapes
from tpi_mpi.kernels.compiled.multiplier import Multiplier
from tpi_mpi.kernels.experts.choice import exponential, sigmoid
from tpi_mpi.kernels.experts.routing import Routing
from tpi_mpi.kernels.fallback import Fallback
from tpi_mpi.kernels.formats import Plain
from tpi_mpi.kernels.operand import Arranged, Vector

SCORINGS = [
    Routing(13, 3, "softmax"),
    Routing(13, 3, "softmax", normalised=False, scale=2.5),
    Routing(13, 3, "softmax of chosen"),
    Routing(13, 3, "sigmoid", scale=1.7),
    Routing(13, 3, "sigmoid", normalised=False),
    Routing(130, 8, "softmax"),
    Routing(4, 4, "sigmoid"),
    Routing(3, 1, "softmax of chosen"),
]


@pytest.fixture(scope="module", params=[1, 2])
def linear(request):
    with Multiplier(request.param, 2) as multiplier:
        yield multiplier


def shapes_of(routing: Routing, width: int) -> Shapes:
    return Shapes(width, 1e-5, 1, 1, 1, 0, 16, 8, 32, "silu", routing=routing)


def stored(values: np.ndarray, dtype: str) -> Vector:
    bits = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else values.astype(dtype)
    return Vector(Plain(dtype, values.shape), bits)


def router_tensors(routing: Routing, width: int, dtype="float32", options=False, seed=0) -> Arranged:
    rng = np.random.default_rng(seed)
    norm, router = 1 + rng.random(width, np.float32), rng.standard_normal((routing.experts, width), np.float32)
    extra = [rng.standard_normal(routing.experts, np.float32) for _ in range(2)]
    last = [stored(extra[0], dtype), stored(extra[1], "float32") if routing.scoring == "sigmoid" else None]
    return Arranged([stored(norm, dtype), stored(router / width**0.5, dtype), *(last if options else [None, None])])


def chosen_by(linear, shapes: Shapes, tensors: Arranged, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mixture = linear.blocks(shapes).mixture(tensors, hidden)
    assert list(mixture.wanted) == sorted({*mixture.chosen.reshape(-1).tolist()})
    return mixture.chosen, mixture.shares


def same(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.array_equal(left[0], right[0])
    assert left[1].tobytes() == right[1].tobytes()


def hidden_states(rows: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width), np.float32)


@pytest.mark.parametrize("routing", SCORINGS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("width", [20, 64, 1096])
def test_the_choice_equals_the_obvious_one(linear, routing, dtype, options, width):
    shapes, tensors = shapes_of(routing, width), router_tensors(routing, width, dtype, options)
    for rows in (1, 7):
        hidden = hidden_states(rows, width)
        same(chosen_by(linear, shapes, tensors, hidden), chosen_by(Fallback(), shapes, tensors, hidden))


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "softmax of chosen"])
def test_of_equal_experts_the_first_are_chosen(linear, scoring):
    """And of nearly equal ones, the same by everyone."""
    routing, width = Routing(24, 5, scoring), 200
    shapes, tensors = shapes_of(routing, width), router_tensors(routing, width)
    router = tensors.tensors[1].stored
    router[4:] = router[4]
    hidden = hidden_states(50, width)
    result = chosen_by(linear, shapes, tensors, hidden)
    same(result, chosen_by(Fallback(), shapes, tensors, hidden))
    for row in result[0]:
        equal = [expert for expert in row if expert >= 4]
        assert equal == list(range(4, 4 + len(equal)))
    router[4:] *= 1 + np.random.default_rng(3).integers(-1, 2, (20, width)).astype(np.float32) * 2.0**-24
    same(chosen_by(linear, shapes, tensors, hidden), chosen_by(Fallback(), shapes, tensors, hidden))


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "softmax of chosen"])
@pytest.mark.parametrize("size", [1e-30, 1e3, 1e30])
def test_logits_may_have_any_size(linear, scoring, size):
    routing, width = Routing(40, 6, scoring), 96
    shapes, tensors = shapes_of(routing, width), router_tensors(routing, width)
    tensors.tensors[1].stored[:] *= np.float32(size)
    hidden = hidden_states(20, width)
    result = chosen_by(linear, shapes, tensors, hidden)
    same(result, chosen_by(Fallback(), shapes, tensors, hidden))
    assert np.isfinite(result[1]).all()


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "softmax of chosen"])
def test_what_is_no_number_is_given_to_someone(linear, scoring):
    routing, width = Routing(40, 6, scoring), 96
    shapes, tensors, hidden = shapes_of(routing, width), router_tensors(routing, width), hidden_states(5, width)
    before = chosen_by(linear, shapes, tensors, hidden)
    hidden[2, 3] = np.nan
    chosen, shares = chosen_by(linear, shapes, tensors, hidden)
    assert chosen[2].tolist() == list(range(6))
    assert np.isnan(shares[2]).all()
    others = [0, 1, 3, 4]
    same((chosen[others], shares[others]), tuple(own[others] for own in before))
    same(
        (chosen[[2]], np.isnan(shares[[2]])),
        (chosen_by(Fallback(), shapes, tensors, hidden)[0][[2]], np.ones((1, 6), bool)),
    )


def test_rows_are_independent(linear):
    routing, width = Routing(130, 8, "softmax"), 264
    shapes, tensors, hidden = shapes_of(routing, width), router_tensors(routing, width), hidden_states(300, width)
    whole = chosen_by(linear, shapes, tensors, hidden)
    for rows in (slice(0, 1), slice(5, 8), slice(100, 250)):
        same(chosen_by(linear, shapes, tensors, hidden[rows].copy()), tuple(own[rows] for own in whole))


def test_the_exponential_is_one():
    x = -np.abs(np.random.default_rng(0).standard_normal(10_000)) * 100
    np.testing.assert_allclose(exponential(x), np.exp(x), rtol=1e-12)
    np.testing.assert_allclose(sigmoid(x), 1 / (1 + np.exp(-x)), rtol=1e-12)
    assert (exponential(np.array([-1e5, -np.inf])) < 1e-300).all()
    assert exponential(np.zeros(1)) == 1
