"""The number format of messages: float32, or narrower at the price of an error.

A rank passes even its own numbers through the wire's rounding, so that all ranks keep the same hidden states.
"""

from typing import Protocol

import torch


class Wire(Protocol):
    """A format for float32 numbers in messages.

    group: how many numbers are encoded together. A message may be divided only at multiples of it.
    """

    group: int

    def nbytes(self, count: int) -> int:
        """Length in bytes of a message of ``count`` numbers."""

    def write(self, values: torch.Tensor, message: torch.Tensor) -> None:
        """Encodes float32 values of any shape into a message: uint8, as long as :meth:`nbytes` says."""

    def read(self, message: torch.Tensor, count: int) -> torch.Tensor:
        """Decodes a message into (count,) numbers in float32 or narrower; a view of the message where possible."""


class PlainWire:
    """Each number on its own, rounded to a dtype: relative error at most 2^-8 in bfloat16, 2^-11 in float16.

    float16 ends at 65504, and larger magnitudes are clamped to that; below 6e-5 its absolute error is at most 3e-8.
    """

    group = 1

    def __init__(self, dtype: torch.dtype):
        self._dtype = dtype
        self._most = torch.finfo(dtype).max

    def nbytes(self, count: int) -> int:
        return count * self._dtype.itemsize

    def write(self, values: torch.Tensor, message: torch.Tensor) -> None:
        if self._dtype == torch.float16:
            values = values.clamp(-self._most, self._most)
        message.view(self._dtype).view(values.shape).copy_(values)

    def read(self, message: torch.Tensor, count: int) -> torch.Tensor:
        return message.view(self._dtype)


class ScaledWire:
    """Integers from -127 to 127 in groups of 128, each group preceded by its scale in float32.

    The error of a number is at most 1/254 of the largest magnitude in its group.
    """

    group = 128
    _SCALE = 4  # bytes

    def nbytes(self, count: int) -> int:
        return -(-count // self.group) * (self._SCALE + self.group)

    def write(self, values: torch.Tensor, message: torch.Tensor) -> None:
        scales, levels = self._parts(message)
        flat = values.reshape(-1)
        groups = torch.nn.functional.pad(flat, (0, levels.numel() - len(flat))).view(levels.shape)
        largest = groups.abs().amax(dim=1, keepdim=True)
        scales.copy_(largest / 127)
        levels.copy_((groups / scales.masked_fill(largest == 0, 1.0)).round())

    def read(self, message: torch.Tensor, count: int) -> torch.Tensor:
        scales, levels = self._parts(message)
        return (scales * levels).flatten()[:count]

    def _parts(self, message: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of a message: float32 scales (groups, 1) and int8 levels (groups, 128)."""
        groups = message.view(-1, self._SCALE + self.group)
        return groups[:, : self._SCALE].view(torch.float32), groups[:, self._SCALE :].view(torch.int8)


_WIRES: dict[str, Wire] = {
    "float32": PlainWire(torch.float32),
    "bfloat16": PlainWire(torch.bfloat16),
    "float16": PlainWire(torch.float16),
    "int8": ScaledWire(),
}


def wire(name: str) -> Wire:
    """The wire that ``--wire`` calls by this name."""
    return _WIRES[name]
