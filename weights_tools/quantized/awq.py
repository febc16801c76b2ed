"""AWQ in its gemm version: codes packed along the outputs, in an order of their own."""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.common.errors import UserError
from weights_tools.quantized.bits import words_for, zero_points_of
from weights_tools.quantized.gptq import ColumnScales
from weights_tools.quantized.matrix import QuantizedMatrix
from weights_tools.quantized.parts import FLOATS, Parts
from weights_tools.quantized.section import Section, is_among
from weights_tools.quantized.sharing import Sharing
from weights_tools.tensors.stored import Loaded, Stored

_BITS = 4
# The output, of the eight in a word, whose code lies in each four bits of it, from the lowest up.
_OUTPUT_IN = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Awq:
    """excluded: what is not quantized."""

    sharing: Sharing
    excluded: tuple[str, ...]
    suffixes = ("qweight", "qzeros", "scales")

    @classmethod
    def read(cls, section: Section) -> "Awq":
        """Raises UserError if the section is not understood."""
        bits, size = section.either("bits", "w_bit"), section.either("group_size", "q_group_size")
        section.refuse_unknown({bits, size, "format", "desc_act"})
        section.bits(bits, _BITS)
        for key in ("version", "format"):
            section.one_of(key, ("gemm",))
        return cls(section.group(size), section.excluded)

    def excludes(self, module: str) -> bool:
        return is_among(module, self.excluded)

    def matrix(self, name: str, shape: tuple[int, int], parts: Parts) -> QuantizedMatrix:
        outputs, inputs = shape
        if outputs % len(_OUTPUT_IN):
            raise UserError(f"{name} has {outputs} outputs, which awq cannot pack; a multiple of 8 is needed")
        groups, words = self.sharing.grid(shape)[1], words_for(outputs, _BITS)
        return QuantizedMatrix(
            name=name,
            shape=shape,
            dtype="int4",
            codes=_OutputWords(parts.need("qweight", ("I32",), (inputs, words))),
            scales=ColumnScales(parts.need("scales", FLOATS, (groups, outputs))),
            zero_points=_ZeroWords(parts.need("qzeros", ("I32",), (groups, words))),
            group=self.sharing.columns,
            tensors=parts.used,
        )


@dataclass(frozen=True)
class _OutputWords:
    """Codes. stored: (inputs, outputs / 8)."""

    stored: Stored

    def load(self) -> Loaded:
        words = self.stored.read().view(np.uint32)
        return lambda start, stop: _codes(words, start, stop)


@dataclass(frozen=True)
class _ZeroWords:
    """Zero points. stored: (groups, outputs / 8)."""

    stored: Stored

    def load(self) -> Loaded:
        words = self.stored.read().view(np.uint32)
        return lambda start, stop: zero_points_of(_codes(words, start, stop), _BITS)


def _codes(words: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The codes (n, inputs) of some outputs, of words (inputs, outputs / 8)."""
    first, last = start // 8, -(-stop // 8)
    columns = np.ascontiguousarray(words[:, first:last].T)
    codes = np.empty((last - first, 8, len(words)), np.uint8)
    for byte in range(4):
        pair = (columns >> np.uint32(8 * byte)).astype(np.uint8)
        np.bitwise_and(pair, 15, out=codes[:, _OUTPUT_IN[2 * byte]])
        np.right_shift(pair, 4, out=codes[:, _OUTPUT_IN[2 * byte + 1]])
    return codes.reshape(-1, len(words))[start - 8 * first : stop - 8 * first]
