"""A mixture without compiled kernels, slowly and obviously."""

from collections.abc import Callable, Sequence
from ctypes import c_char

import numpy as np

from tpi_mpi.kernels.blocks import Shapes
from tpi_mpi.kernels.experts.choice import choose, logits_of, normalise
from tpi_mpi.kernels.experts.record import Present
from tpi_mpi.kernels.formats import Format, Tiled
from tpi_mpi.kernels.operand import Arranged, Operand, Vector
from tpi_mpi.kernels.packing import Rows, dequantize

Tensors = list[Operand | Vector | None]


class SlowMixture:
    """See :class:`tpi_mpi.kernels.experts.mixture.Mixture`.

    compute: an expert's results (n, width), of normalised states (n, width) and its tensors.
    """

    in_order = False

    def __init__(
        self,
        shapes: Shapes,
        tensors: Arranged,
        hidden: np.ndarray,
        partial: np.ndarray | None,
        compute: Callable[[np.ndarray, Tensors], np.ndarray],
    ):
        norm, router, bias, correction = tensors.tensors
        self._states = normalise(hidden, widened(norm), shapes.eps)
        experts = shapes.routing.experts
        logits = logits_of(self._states, lambda expert: widened(router, expert), experts, bias and widened(bias))
        self.chosen, self.shares = choose(shapes.routing, logits, correction and widened(correction))
        self.wanted = np.unique(self.chosen).tolist()
        self._compute = compute
        self._result = np.zeros_like(hidden) if partial is None else partial
        self._kept: dict[int, np.ndarray] = {}

    def add(self, some: Sequence[Present]) -> None:
        for one in some:
            rows = np.nonzero(self.chosen == one.number)[0]
            self._kept[one.number] = self._compute(self._states[rows], tensors_of(one))

    def result(self) -> np.ndarray:
        for number in sorted(self._kept):
            rows, slots = np.nonzero(self.chosen == number)
            self._result[rows] += self.shares[rows, slots][:, None] * self._kept[number]
        self._kept.clear()
        return self._result


def slow_mixture_numbers(rows: int, shapes: Shapes) -> int:
    """How many float32 take as much memory as a mixture of ``rows`` rows does, at most."""
    routing = shapes.routing
    if routing is None:
        return 0
    of_choice = 2 * (3 * shapes.width + 6 * routing.experts)  # float64
    return rows * (of_choice + shapes.width * (2 + routing.top_k))


def tensors_of(one: Present) -> Tensors:
    """An expert's tensors as views of the memory that it is in."""
    memory = (c_char * one.record.nbytes).from_address(one.address)
    tensors: Tensors = []
    for layout, offsets in zip(one.record.tensors, one.record.offsets, strict=True):
        if isinstance(layout, Tiled):
            tensors.append(Operand.of(layout, memory, offsets))
        else:
            tensors.append(Vector.of(layout, memory, offsets[0]) if layout else None)
    return tensors


def widened(vector: Vector, row: int | None = None) -> np.ndarray:
    """A vector, or a row of what has several, in float32."""
    stored = vector.stored if row is None else vector.stored[row]
    return dequantize(Rows(stored[None]), Format(vector.layout.dtype))[0]
