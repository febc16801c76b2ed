"""Rows of a tensor from one format into another."""

import numpy as np
import torch

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.packing import Rows, dequantize
from tpi_mpi.kernels.quantization import quantize


def convert(rows: Rows, source: Format, target: Format, name: str) -> Rows:
    """The rows in the target's format; the same rows if they are in it already.

    Packed ones become float32 first. Rounds to the nearest, to even where two are equally near.
    name: of the tensor. Raises UserError if a weight is too large for the target, or not finite and to be quantized.
    """
    if source == target:
        return rows
    values = tensor_of(rows, source)
    if target.packed:
        return _quantized(values.float().numpy(), target, name)
    dtype = getattr(torch, target.dtype)
    _check_range(values, dtype, target, name)
    return rows_of(values.to(dtype))


def tensor_of(rows: Rows, format: Format) -> torch.Tensor:
    """The weights, in float32 if the format is packed."""
    if format.packed:
        return torch.from_numpy(dequantize(rows, format))
    values = torch.from_numpy(np.ascontiguousarray(rows.values).view(_SIGNED.get(format.dtype, rows.values.dtype)))
    return values.view(getattr(torch, format.dtype))


def rows_of(values: torch.Tensor) -> Rows:
    """Weights of any float dtype as rows: without copying, if they are contiguous."""
    if values.dtype == torch.bfloat16:  # numpy has none
        return Rows(values.view(torch.int16).numpy().view(np.uint16))
    return Rows(values.numpy())


# torch computes with no unsigned integers, and need not: their bits are viewed as floats.
_SIGNED = {"bfloat16": np.int16}


def _check_range(values: torch.Tensor, dtype: torch.dtype, target: Format, name: str) -> None:
    largest = torch.finfo(dtype).max
    if torch.finfo(values.dtype).max > largest and values.abs().max() > largest:
        raise UserError(
            f"tensor {name} has a weight of {values.abs().max():.0f}, but {target.dtype} only reaches {largest:.0f}; "
            "use --dtype keep, bfloat16 or float32"
        )


def _quantized(values: np.ndarray, target: Format, name: str) -> Rows:
    try:
        return quantize(values, target)
    except ValueError:
        raise UserError(
            f"tensor {name} has a weight that is not finite, which {target.dtype} cannot hold; use --dtype keep"
        ) from None
