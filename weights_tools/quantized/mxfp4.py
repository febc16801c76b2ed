"""MXFP4: weights in E2M1, two a byte, with a power of two for each 32 inputs."""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.common.errors import TpiError, UserError
from weights_tools.quantized.bits import unpacked
from weights_tools.quantized.matrix import QuantizedMatrix
from weights_tools.quantized.parts import Parts
from weights_tools.quantized.section import Section, is_among
from weights_tools.quantized.sharing import Sharing
from weights_tools.tensors.stored import Loaded, Stored

_GROUP, _BITS = 32, 4
_NAN = 255


@dataclass(frozen=True)
class Mxfp4:
    """excluded: what is not quantized."""

    excluded: tuple[str, ...]
    suffixes = ("blocks", "scales")

    @classmethod
    def read(cls, section: Section) -> "Mxfp4":
        """Raises UserError if the section is not understood."""
        section.refuse_unknown(())
        return cls(section.excluded)

    def excludes(self, module: str) -> bool:
        return is_among(module, self.excluded)

    def matrix(self, name: str, shape: tuple[int, int], parts: Parts) -> QuantizedMatrix:
        inputs = shape[1]
        if inputs % _GROUP:
            raise UserError(f"{name} has {inputs} inputs, which mxfp4 cannot pack; a multiple of {_GROUP} is needed")
        grid = Sharing.group(_GROUP).grid(shape)
        return QuantizedMatrix(
            name=name,
            shape=shape,
            dtype="mxfp4",
            codes=_Blocks(parts.need("blocks", ("U8",), (*grid, _GROUP * _BITS // 8))),
            scales=_Exponents(parts.need("scales", ("U8",), grid)),
            zero_points=None,
            group=_GROUP,
            tensors=parts.used,
        )


@dataclass(frozen=True)
class _Blocks:
    """Codes. stored: (outputs, groups, 16), the first of two in the low bits."""

    stored: Stored

    def load(self) -> Loaded:
        return self._rows

    def _rows(self, start: int, stop: int) -> np.ndarray:
        return unpacked(self.stored.read(start, stop).reshape(stop - start, -1), _BITS)


@dataclass(frozen=True)
class _Exponents:
    """Scales. stored: (outputs, groups), a byte e for 2^(e - 127)."""

    stored: Stored

    def load(self) -> Loaded:
        return self._rows

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Raises TpiError where a scale is not a number."""
        exponents = self.stored.read(start, stop)
        if (exponents == _NAN).any():
            raise TpiError(f"tensor {self.stored.name} has a scale that is not a number; download it again")
        return exponents
