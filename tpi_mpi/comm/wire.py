"""How numbers travel: as they are, or narrower, at the price of an error.

Every rank goes on with what a message can carry, also of its own numbers, so that all keep the same hidden states.
"""

from typing import Protocol

import torch


class Wire(Protocol):
    """A way to write float32 numbers into messages.

    group: so many are written together; a part of a message begins at a multiple of it.
    """

    group: int

    def nbytes(self, count: int) -> int:
        """Bytes of a message of so many numbers."""

    def write(self, values: torch.Tensor, message: torch.Tensor) -> None:
        """Writes numbers of any shape into a message, uint8 of the length that :meth:`nbytes` says."""

    def read(self, message: torch.Tensor, count: int) -> torch.Tensor:
        """The numbers (count,) of a message, in float32 or narrower; a view of it where that is possible."""


class PlainWire:
    """Each number by itself, rounded to a type: bfloat16 within 2^-8 of its size, float16 within 2^-11.

    float16 ends at 65504; what is larger arrives as that, and what is smaller than 6e-5 within 3e-8.
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
    """Whole numbers from -127 to 127 in groups of 128, each group behind its scale in float32.

    The error of a number is at most 1/254 of the largest of its group.
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
        """Scales (groups, 1) and levels (groups, 128)."""
        groups = message.view(-1, self._SCALE + self.group)
        return groups[:, : self._SCALE].view(torch.float32), groups[:, self._SCALE :].view(torch.int8)


_WIRES: dict[str, Wire] = {
    "float32": PlainWire(torch.float32),
    "bfloat16": PlainWire(torch.bfloat16),
    "float16": PlainWire(torch.float16),
    "int8": ScaledWire(),
}


def wire(name: str) -> Wire:
    """The wire of an option's name."""
    return _WIRES[name]
