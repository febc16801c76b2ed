"""compressed-tensors: integers, packed along the inputs or one a byte, or FP8."""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.packing import INT4_ZERO
from weights_tools.quantized.bits import codes_of, unpacked, words_for, zero_points_of
from weights_tools.quantized.fp8 import float8_matrix
from weights_tools.quantized.gptq import group_of
from weights_tools.quantized.matrix import Field, QuantizedMatrix
from weights_tools.quantized.parts import Parts
from weights_tools.quantized.schemes import Scheme, is_target, most_exact, read_schemes, read_targets
from weights_tools.quantized.section import Section
from weights_tools.quantized.sharing import RowScales
from weights_tools.tensors.stored import Loaded, Stored

_INERT = ("quantization_status", "global_compression_ratio", "run_compressed", "kv_cache_scheme")


@dataclass(frozen=True)
class CompressedTensors:
    """ignore: the targets that are not quantized, whatever the schemes say."""

    schemes: tuple[Scheme, ...]
    ignore: tuple[str, ...]
    suffixes = ("weight_packed", "weight", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")

    @classmethod
    def read(cls, section: Section) -> "CompressedTensors":
        """Raises UserError if the section is not understood."""
        section.refuse_unknown({"config_groups", "format", "ignore", "sparsity_config", *_INERT})
        section.section("sparsity_config").one_of("format", ("dense",))
        return cls(read_schemes(section), read_targets(section, "ignore"))

    def scheme_of(self, module: str) -> Scheme | None:
        """The scheme with the most exact target; None if the module is ignored, or nobody's target."""
        return None if is_target(module, self.ignore) else most_exact(module, self.schemes)

    def excludes(self, module: str) -> bool:
        return self.scheme_of(module) is None

    def matrix(self, name: str, shape: tuple[int, int], parts: Parts) -> QuantizedMatrix:
        scheme = self.scheme_of(parts.module)
        assert scheme, f"{parts.module} is not quantized"
        if scheme.dtype == "float8":
            return float8_matrix(name, shape, parts, "weight_scale", scheme.sharing)
        return _integer_matrix(name, shape, parts, scheme)


def _integer_matrix(name: str, shape: tuple[int, int], parts: Parts, scheme: Scheme) -> QuantizedMatrix:
    sharing = scheme.sharing
    return QuantizedMatrix(
        name=name,
        shape=shape,
        dtype=scheme.dtype,
        codes=_packed_codes(shape, parts, scheme) if scheme.packed else _Bytes(parts.need("weight", ("I8",), shape)),
        scales=RowScales(parts.scales("weight_scale", sharing, shape), sharing.rows),
        zero_points=_zero_points(shape, parts, scheme),
        group=sharing.columns,
        group_of=group_of(parts, "weight_g_idx", shape, sharing, scheme.dealt),
        tensors=parts.used,
    )


def _packed_codes(shape: tuple[int, int], parts: Parts, scheme: Scheme) -> Field:
    outputs, inputs = shape
    stored = parts.need("weight_shape", ("I64", "I32"), (2,))
    found = tuple(stored.read().tolist())
    if found != shape:
        raise UserError(f"tensor {stored.name} says {found}, but config.json promises {shape}")
    words = parts.need("weight_packed", ("I32",), (outputs, words_for(inputs, scheme.bits)))
    return _Words(words, scheme.bits, inputs)


def _zero_points(shape: tuple[int, int], parts: Parts, scheme: Scheme) -> Field | None:
    """Packed ones where the weights are packed; but early releases stored them one a byte."""
    rows, groups = scheme.sharing.grid(shape)
    if "weight_zero_point" not in parts and scheme.symmetric:
        return None
    if scheme.packed and parts.dtype("weight_zero_point") != "I8":
        words = parts.need("weight_zero_point", ("I32",), (words_for(rows, scheme.bits), groups))
        return _ZeroWords(words, scheme.bits)
    return _ZeroBytes(parts.need("weight_zero_point", ("I8",), (rows, groups)), scheme.bits)


@dataclass(frozen=True)
class _Words:
    """Codes packed along the inputs. stored: (outputs, words)."""

    stored: Stored
    bits: int
    inputs: int

    def load(self) -> Loaded:
        return self._rows

    def _rows(self, start: int, stop: int) -> np.ndarray:
        return codes_of(unpacked(self.stored.read(start, stop), self.bits)[:, : self.inputs], self.bits)


@dataclass(frozen=True)
class _Bytes:
    """Codes of eight bits, one a byte. stored: (outputs, inputs)."""

    stored: Stored

    def load(self) -> Loaded:
        return self.stored.read


@dataclass(frozen=True)
class _ZeroWords:
    """Zero points. stored: (words, groups), packed along the outputs."""

    stored: Stored
    bits: int

    def load(self) -> Loaded:
        zeros = zero_points_of(unpacked(self.stored.read().T, self.bits), self.bits).T
        return lambda start, stop: zeros[start:stop]


@dataclass(frozen=True)
class _ZeroBytes:
    """Zero points, signed ones. stored: (outputs, groups)."""

    stored: Stored
    bits: int

    def load(self) -> Loaded:
        return self._rows

    def _rows(self, start: int, stop: int) -> np.ndarray:
        return self.stored.read(start, stop).astype(np.float16) + np.float16(INT4_ZERO if self.bits == 4 else 0)
