"""Numbers to the codes and scales of int8 and int4.

The scale of a group is the one of sixteen candidates with the least squared error: the largest magnitude divided by the
largest code, and somewhat smaller scales, under which the largest weights are cut short in favour of all the others.
Candidates are rounded to float16 first, so the error is that of what is stored. Without zero points, the sign of the
scale is such that the weight of largest magnitude falls on the negative side, which has one code more.

The same numbers give the same codes on every CPU, with Numba and without: the order of every sum is laid down.
"""

from importlib.util import find_spec

import numpy as np

from tpi_mpi.kernels.formats import STORED_AS, Format
from tpi_mpi.kernels.packing import Rows
from tpi_mpi.kernels.records.search import FINITE
from tpi_mpi.kernels.scales import slow_search
from tpi_mpi.kernels.scales.candidates import Candidates

# Errors are summed by so many at a time; groups are as long as a multiple of it.
_STEP = 4


def quantize(values: np.ndarray, format: Format) -> Rows:
    """Codes, scales and zero points of whole rows (n, K) of float32. The last group of a row may be short.

    format: int8 or int4 with float16 scales. A group of zeros gets the scale 0.
    Raises ValueError if a number is not finite.
    """
    count, columns = values.shape
    groups = _grouped(values, format.group or -(-columns // _STEP) * _STEP)
    codes, scales, zeros = searched(groups, Candidates.of(format))
    codes = codes.reshape(count, -1)[:, :columns].view(np.dtype(STORED_AS[format.dtype]))
    scales, zeros = (array.astype(np.float16).reshape(count, -1) for array in (scales, zeros))
    return Rows(np.ascontiguousarray(codes), scales, zeros if format.zero_points else None)


def prepare_search() -> None:
    """Compiles the search, or loads it."""
    quantize(np.zeros((1, _STEP), np.float32), Format.of("int8"))


def _grouped(values: np.ndarray, group: int) -> np.ndarray:
    """(groups, group): the groups of all rows, each row's last one filled up with zeros, which have no error."""
    missing = -values.shape[1] % group
    if missing:
        values = np.pad(values, ((0, 0), (0, missing)))
    return np.ascontiguousarray(values).reshape(-1, group)


def searched(groups: np.ndarray, tried: Candidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes as bytes (G, group), scales and zero points (G,) in float32."""
    if find_spec("numba") is None:
        return slow_search.search_scales(groups, tried)
    from tpi_mpi.kernels.compiled.functions import SEARCH

    groups, codes = np.ascontiguousarray(groups, np.float32), np.empty(groups.shape, np.uint8)
    scales, zeros = np.empty((2, len(groups)), np.float32)
    bounds = np.array([tried.first, tried.last, tried.zero], np.float32)
    addresses = [array.ctypes.data for array in (bounds, tried.low, tried.high, codes, scales, zeros)]
    arguments = np.array([groups.ctypes.data, *groups.shape, tried.zero_points, *addresses, 0], np.int64)
    SEARCH.call(arguments.ctypes.data)
    if not arguments[FINITE]:
        raise ValueError("a number is not finite")
    return codes, scales, zeros
