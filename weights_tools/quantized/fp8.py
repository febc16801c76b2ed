"""FP8: weights in E4M3 whose scales are shared by blocks, by rows, or by all."""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.common.errors import TpiError
from weights_tools.quantized.matrix import QuantizedMatrix
from weights_tools.quantized.parts import Parts
from weights_tools.quantized.section import Section, is_among
from weights_tools.quantized.sharing import RowScales, Sharing
from weights_tools.tensors.stored import Loaded, Stored

_VALUES = {
    "activation_scheme": ("dynamic", "static"),
    "expert_dtype": ("fp8",),
    "fmt": ("e4m3",),
    "scale_fmt": ("float", "ue8m0"),
}
_NAN = 0x7F


@dataclass(frozen=True)
class Fp8:
    """Codes are multiplied with scales, also with those that are called inverse. excluded: what is not quantized."""

    sharing: Sharing
    excluded: tuple[str, ...]
    suffixes = ("weight", "weight_scale_inv", "weight_scale")

    @classmethod
    def read(cls, section: Section) -> "Fp8":
        """Raises UserError if the section is not understood."""
        section.refuse_unknown({*_VALUES, "weight_block_size", "kv_cache_scheme"})
        for key, values in _VALUES.items():
            section.one_of(key, values)
        block = "weight_block_size"
        sharing = Sharing(0, 0) if section.get(block) is None else section.block(block)
        return cls(sharing, section.excluded)

    def excludes(self, module: str) -> bool:
        return is_among(module, self.excluded)

    def matrix(self, name: str, shape: tuple[int, int], parts: Parts) -> QuantizedMatrix:
        scales = "weight_scale" if "weight_scale" in parts else "weight_scale_inv"
        return float8_matrix(name, shape, parts, scales, self.sharing)


def float8_matrix(name: str, shape: tuple[int, int], parts: Parts, scales: str, sharing: Sharing) -> QuantizedMatrix:
    """The matrix of a module whose scales have the suffix ``scales``."""
    return QuantizedMatrix(
        name=name,
        shape=shape,
        dtype="float8",
        codes=_Bytes(parts.need("weight", ("F8_E4M3",), shape)),
        scales=RowScales(parts.scales(scales, sharing, shape), sharing.rows),
        zero_points=None,
        group=sharing.columns,
        tensors=parts.used,
    )


@dataclass(frozen=True)
class _Bytes:
    """Codes. stored: (outputs, inputs)."""

    stored: Stored

    def load(self) -> Loaded:
        return self._rows

    def _rows(self, start: int, stop: int) -> np.ndarray:
        """Raises TpiError where a weight is not a number."""
        codes = self.stored.read(start, stop)
        if ((codes & _NAN) == _NAN).any():
            raise TpiError(f"tensor {self.stored.name} has a weight that is not a number; download it again")
        return codes
