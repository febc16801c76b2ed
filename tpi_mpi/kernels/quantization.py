"""Weights rounded to the codes of int8 or int4."""

import numpy as np

from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.packing import INT4_ZERO, Rows

_LARGEST = {"int8": 127, "int4": 7}


def quantize(values: np.ndarray, format: Format) -> Rows:
    """Finite float32 weights (n, K), from the first column of a matrix on, as codes with scales."""
    groups = _grouped(values, format)
    zeros = None
    if format.zero_points:
        least, most = np.minimum(groups.min(2), 0), np.maximum(groups.max(2), 0)
        scales = ((most - least) / 15).astype(np.float16)
        zeros = np.clip(np.rint(-least * _inverse(scales)), 0, 15).astype(np.float16)
        offset = zeros.astype(np.float32)[:, :, None]
        lowest, highest = 0, 15
    else:
        largest = _LARGEST[format.dtype]
        scales = (np.abs(groups).max(2) / largest).astype(np.float16)
        offset = INT4_ZERO if format.dtype == "int4" else 0
        lowest, highest = offset - largest, offset + largest
    codes = np.clip(np.rint(groups * _inverse(scales)[:, :, None]) + offset, lowest, highest)
    codes = codes.reshape(len(values), -1)[:, : values.shape[1]]
    return Rows(codes.astype(np.int8 if format.dtype == "int8" else np.uint8), scales, zeros)


def _grouped(values: np.ndarray, format: Format) -> np.ndarray:
    """(n, groups, weights of a group), the last group filled up with zeros."""
    group = format.group or values.shape[1]
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % group)))
    return padded.reshape(len(values), -1, group)


def _inverse(scales: np.ndarray) -> np.ndarray:
    """1 / scale, and zero for a group of zeros."""
    scales = scales.astype(np.float32)
    return np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
