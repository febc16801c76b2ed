"""The door: the product of states with operands, whatever their format and whatever the CPU."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from tpi_mpi.kernels.blocks import Blocks, Shapes
from tpi_mpi.kernels.cpu import this_cpu
from tpi_mpi.kernels.formats import Tiled
from tpi_mpi.kernels.operand import Operand


class Linear(Protocol, AbstractContextManager):
    """Multiplies states with operands.

    Rows are independent: the result of a row is bitwise the same whatever the other rows are, and however many.

    threads: how many compute, the caller's included.
    """

    threads: int

    def __call__(self, rows: np.ndarray, operand: Operand) -> np.ndarray:
        """States (M, K) in float32 times the transpose of the operand (N, K): (M, N) in float32."""

    def several(self, rows: np.ndarray, operands: Sequence[Operand]) -> list[np.ndarray]:
        """The same states times each of several operands, which must have the same columns."""

    def adapt(self) -> None:
        """To be called after each sweep: uses fewer threads while other programs need the cores."""

    def prepare(self, layouts: Iterable[Tiled]) -> None:
        """Compiles, or loads, whatever multiplies with matrices in these layouts."""

    def blocks(self, shapes: Shapes) -> Blocks:
        """What computes the blocks of a model on the same threads."""

    def describe(self, layouts: Iterable[Tiled]) -> list[str]:
        """For people: what multiplies with matrices in these layouts."""


def kernels_available() -> bool:
    """Whether Numba is installed, and the CPU has the instructions without which torch is as fast."""
    return find_spec("numba") is not None and this_cpu().vectors


def compiling_announced(announce: Callable[[], None]) -> AbstractContextManager[None]:
    """Inside the with-block, ``announce`` is called once if something must be compiled, which takes some seconds.

    What has been compiled is kept on disk.
    """
    if not kernels_available():
        return nullcontext()
    from tpi_mpi.kernels.compiled.library import library

    return library().announced(announce)


def prepare(
    layouts: Iterable[Tiled],
    planes: int,
    cached: Iterable[Tiled] = (),
    dtypes: Iterable[str] = (),
    experts: bool = False,
) -> None:
    """Loads whatever computes with matrices in these layouts, and converts numbers of these dtypes.

    What has not been compiled yet is, all of it at once. planes: as of :func:`open_linear`. cached: layouts of keys
    and values. experts: whether there are any; their matrices are among the others.
    """
    if kernels_available():
        from tpi_mpi.kernels.compiled.functions import load, needed

        load(needed(layouts, planes, cached, dtypes, experts))


def open_linear(threads: int = 1, planes: int = 2) -> Linear:
    """Compiled kernels where Numba is installed, and torch's operators on dequantized weights where it is not.

    threads: that compute, the caller's included. planes: bytes of a state where weights are multiplied as integers.
    """
    if not kernels_available():
        from tpi_mpi.kernels.fallback import Fallback

        return Fallback()
    from tpi_mpi.kernels.compiled.multiplier import Multiplier

    return Multiplier(threads, planes)
