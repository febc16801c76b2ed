"""How a router chooses among experts, slowly and obviously: compiled code must come to the same bits.

All is done in double precision and in a fixed order, so that ranks with different CPUs choose alike. The products that
are summed up are those of two float32, and so exact; the exponential is a polynomial of this module's own.
"""

from collections.abc import Callable
from math import factorial

import numpy as np

from tpi_mpi.kernels.experts.routing import Routing

PARTS = 32
"""Partial sums: number i joins the sum i modulo this, and in the end those are added in their order."""

LOG2_E = 1.4426950408889634
LN_2_HIGH, LN_2_LOW = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
"""The logarithm of 2 in two parts, of which a whole number times the first is exact."""

SERIES = tuple(1 / factorial(n) for n in range(14))
"""The coefficients of the exponential."""

LEAST_EXPONENT = -1000.0
"""Of 2, in the exponential of a number, however small: not so low that CPUs may be set to take it for zero."""

ALMOST_NOTHING = 1e-20
"""What is added to a sum of sigmoids before shares are divided by it."""


def normalise(hidden: np.ndarray, norm: np.ndarray, eps: float) -> np.ndarray:
    """The root-mean-square norm of hidden states (T, width), scaled by ``norm`` (width,); all in float32."""
    wide = hidden.astype(np.float64)
    inverse = 1 / np.sqrt(_total(_partial(wide, wide)) / wide.shape[1] + eps)
    return (wide * inverse[:, None] * norm.astype(np.float64)).astype(np.float32)


def logits_of(
    states: np.ndarray, router: Callable[[int], np.ndarray], experts: int, bias: np.ndarray | None
) -> np.ndarray:
    """The logits (T, experts), float64, of normalised states (T, width).

    router: gives an expert's row of the router's weight, float32 (width,).
    """
    wide = states.astype(np.float64)
    columns = [_total(_partial(wide, router(expert).astype(np.float64)[None])) for expert in range(experts)]
    logits = np.stack(columns, 1)
    return logits if bias is None else logits + bias.astype(np.float64)


def choose(routing: Routing, logits: np.ndarray, correction: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The chosen experts of each row, int64 (T, top_k), ascending; and their shares, float32 (T, top_k).

    Of equal ones, those with lower numbers are chosen. correction: (experts,), added to sigmoids for the choice alone.
    """
    scores = sigmoid(logits) if routing.scoring == "sigmoid" else logits
    keys = scores if correction is None else scores + correction.astype(np.float64)
    keys = np.where(np.isnan(keys), -np.inf, keys)
    chosen = np.sort(np.argsort(-keys, axis=1, kind="stable")[:, : routing.top_k], axis=1)
    own = np.take_along_axis(scores, chosen, 1)
    if routing.scoring != "sigmoid":
        field = own if routing.scoring == "softmax of chosen" else logits
        largest = np.max(field, axis=1, keepdims=True)
        own = exponential(own - largest) / _total(exponential(field - largest))[:, None]
    if routing.normalised and routing.scoring != "softmax of chosen":
        own = own / (_total(own) + (ALMOST_NOTHING if routing.scoring == "sigmoid" else 0))[:, None]
    return chosen, (own * routing.scale).astype(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    small = exponential(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)


def exponential(x: np.ndarray) -> np.ndarray:
    """The exponential of numbers that are not positive, as 2^n times a polynomial."""
    whole = np.floor(np.maximum(x * LOG2_E, LEAST_EXPONENT) + 0.5)
    rest = np.maximum((x - whole * LN_2_HIGH) - whole * LN_2_LOW, -1.0)
    series = np.full_like(x, SERIES[-1])
    for coefficient in SERIES[-2::-1]:
        series = series * rest + coefficient
    with np.errstate(invalid="ignore"):  # what is no number stays none
        return series * ((whole.astype(np.int64) + 1023) << 52).view(np.float64)


def _partial(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The partial sums (T, PARTS) of products of float64 (T, n) with (T, n) or (1, n)."""
    parts, whole = np.zeros((len(left), PARTS)), left.shape[1] // PARTS * PARTS
    products = left * right
    for start in range(0, whole, PARTS):
        parts = parts + products[:, start : start + PARTS]
    rest = products[:, whole:]
    parts[:, : rest.shape[1]] += rest
    return parts


def _total(parts: np.ndarray) -> np.ndarray:
    """The sum of each row, in its order."""
    total = np.zeros(len(parts))
    for column in parts.T:
        total = total + column
    return total
