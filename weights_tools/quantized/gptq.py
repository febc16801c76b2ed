"""GPTQ: codes packed along the inputs, and everything lies across: one column for each output."""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.common.errors import UserError
from weights_tools.quantized.bits import codes_of, unpacked, words_for, zero_points_of
from weights_tools.quantized.matrix import QuantizedMatrix
from weights_tools.quantized.parts import FLOATS, Parts
from weights_tools.quantized.section import Section, is_among
from weights_tools.quantized.sharing import Sharing
from weights_tools.tensors.stored import Loaded, Stored

# What brings zero points that were stored less one back, in all codes of a word at once. Writers took it from the whole
# word too, so a zero point of 0 borrowed from its neighbour, and the sum of the whole word undoes that.
_ONES = {4: 0x11111111, 8: 0x01010101}


@dataclass(frozen=True)
class Gptq:
    """How GPTQ has stored a checkpoint.

    bits: 4 or 8. less_one: whether zero points are stored less one. dealt: whether inputs may be in any order of
    groups. excluded: what is not quantized.
    """

    bits: int
    sharing: Sharing
    less_one: bool
    dealt: bool
    excluded: tuple[str, ...]
    suffixes = ("qweight", "qzeros", "scales", "g_idx")

    @classmethod
    def read(cls, section: Section) -> "Gptq":
        """Raises UserError if the section is not understood."""
        formats = ("format", "checkpoint_format")
        section.refuse_unknown({"bits", "group_size", "desc_act", "pack_dtype", *formats})
        section.one_of("pack_dtype", ("int32",))
        found = {section.one_of(key, ("gptq", "gptq_v2")) for key in formats} - {None}
        if len(found) > 1:
            section.refuse("has a format and another checkpoint_format; keep the one that describes the files")
        return cls(
            bits=section.bits("bits", 4, 8),
            sharing=section.group("group_size"),
            less_one=found != {"gptq_v2"},
            dealt=section.switch("desc_act"),
            excluded=section.excluded,
        )

    def excludes(self, module: str) -> bool:
        return is_among(module, self.excluded)

    def matrix(self, name: str, shape: tuple[int, int], parts: Parts) -> QuantizedMatrix:
        outputs, inputs = shape
        groups = self.sharing.grid(shape)[1]
        words = parts.need("qweight", ("I32",), (words_for(inputs, self.bits), outputs))
        zeros = parts.need("qzeros", ("I32",), (groups, words_for(outputs, self.bits)))
        return QuantizedMatrix(
            name=name,
            shape=shape,
            dtype=f"int{self.bits}",
            codes=_ColumnWords(words, self.bits, inputs),
            scales=ColumnScales(parts.need("scales", FLOATS, (groups, outputs))),
            zero_points=_ZeroWords(zeros, self.bits, _ONES[self.bits] if self.less_one else 0),
            group=self.sharing.columns,
            group_of=group_of(parts, "g_idx", shape, self.sharing, self.dealt),
            tensors=parts.used,
        )


def group_of(parts: Parts, suffix: str, shape: tuple[int, int], sharing: Sharing, needed: bool) -> np.ndarray | None:
    """The group of each input, (inputs,); None if they are consecutive.

    needed: whether the tensor that says so must be there. Raises UserError unless every group has an input, and every
    input a group.
    """
    if suffix not in parts and not needed:
        return None
    stored = parts.need(suffix, ("I32", "I64"), shape[1:])
    groups = sharing.grid(shape)[1]
    index = stored.read()
    if not np.array_equal(np.unique(index), np.arange(groups)):
        raise UserError(f"tensor {stored.name} does not deal its inputs to {groups} groups; download it again")
    consecutive = np.arange(shape[1]) // (sharing.columns or shape[1])
    return None if np.array_equal(index, consecutive) else index


@dataclass(frozen=True)
class _ColumnWords:
    """Codes. stored: (words, outputs), packed along the inputs."""

    stored: Stored
    bits: int
    inputs: int

    def load(self) -> Loaded:
        words = self.stored.read()
        return lambda start, stop: self._codes(words[:, start:stop].T)

    def _codes(self, words: np.ndarray) -> np.ndarray:
        return codes_of(unpacked(words, self.bits)[:, : self.inputs], self.bits)


@dataclass(frozen=True)
class ColumnScales:
    """Scales. stored: (groups, outputs)."""

    stored: Stored

    def load(self) -> Loaded:
        scales = self.stored.floats().T
        return lambda start, stop: scales[start:stop]


@dataclass(frozen=True)
class _ZeroWords:
    """Zero points. stored: (groups, words), packed along the outputs. less: what the words were reduced by."""

    stored: Stored
    bits: int
    less: int

    def load(self) -> Loaded:
        words = self.stored.read().view(np.uint32) + np.uint32(self.less)
        zeros = zero_points_of(unpacked(words, self.bits), self.bits).T
        return lambda start, stop: zeros[start:stop]
