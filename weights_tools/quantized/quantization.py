"""What of a checkpoint is quantized: its config.json and its files together, read strictly."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.model.blocks import Block
from tpi_mpi.model.config import STORAGE
from tpi_mpi.model.names import bias_of
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.quantized.awq import Awq
from weights_tools.quantized.compressed_tensors import CompressedTensors
from weights_tools.quantized.fp8 import Fp8
from weights_tools.quantized.gptq import Gptq
from weights_tools.quantized.matrix import QuantizedMatrix
from weights_tools.quantized.mxfp4 import Mxfp4
from weights_tools.quantized.parts import FLOATS, Parts
from weights_tools.quantized.section import Section
from weights_tools.tensors.stored import Stored

Method = Gptq | Awq | CompressedTensors | Fp8 | Mxfp4

METHODS: dict[str, type[Method]] = {
    "gptq": Gptq,
    "awq": Awq,
    "compressed-tensors": CompressedTensors,
    "fp8": Fp8,
    "mxfp4": Mxfp4,
}

_WEIGHT = ".weight"
_SUFFIXES = frozenset(suffix for method in METHODS.values() for suffix in method.suffixes) - {"weight"}
# How activations, keys and values would be rounded, which is not done here: results are only better without.
_ACTIVATIONS = frozenset(
    f"{what}_{number}"
    for what in ("input", "output", "activation", "k", "v", "q")
    for number in ("scale", "zero_point")
)


@dataclass(frozen=True)
class Quantization:
    """The matrices of a checkpoint that are quantized.

    matrices: by the names of the weights that they stand for.
    names: every tensor of the files that has been accounted for by that.
    """

    matrices: Mapping[str, QuantizedMatrix]
    names: frozenset[str]

    @classmethod
    def of(
        cls, keys: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Stored]
    ) -> "Quantization":
        """What there is, by config.json and files: the files show what is quantized, config.json tells how.

        keys: of config.json. shapes: of the tensors that the model needs, by name. tensors: all of the files, by the
            names that the model has for them.
        Raises UserError if the two disagree, if something is missing, or if a tensor that belongs to quantized weights
        would go unused.
        """
        method = read_method(keys)
        if method is None:
            return cls({}, frozenset())
        matrices = dict(_matrices(method, shapes, tensors))
        used = {name for matrix in matrices.values() for name in matrix.tensors}
        used |= set(_zero_biases(matrices, shapes, tensors))
        used |= {name for name in tensors if _suffix(name) in _ACTIVATIONS}
        _refuse_unused(tensors, used | shapes.keys())
        return cls(matrices, frozenset(used))

    def check_kept(self, blocks: Iterable[Block], formats: StoredFormats) -> None:
        """Raises UserError if a matrix is to be kept as it is that has no format of its own."""
        for spec in (spec for block in blocks for spec in block.tensors):
            matrix = self.matrices.get(spec.source)
            if matrix and matrix.why_not and formats.chosen(spec) is None:
                raise UserError(
                    f"{spec.source} cannot be kept as it is: {matrix.why_not}; "
                    "use --dtype int4 or bfloat16, which dequantize it first"
                )


def read_method(keys: Mapping[str, object], origin: str = "config.json") -> Method | None:
    """How the weights are quantized; None if they are not. Raises UserError if that is not understood.

    keys: of the config.json.
    """
    found = [key for key in STORAGE if keys.get(key)]
    if not found:
        return None
    top = JsonObject(keys, origin)
    if len(found) > 1:
        top.refuse(f"has both {' and '.join(STORAGE)}; keep the one that describes the files")
    section = Section(top.object(found[0]), f"{found[0]} in {origin}")
    return METHODS[section.choice("quant_method", METHODS)].read(section)


def _matrices(
    method: Method, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Stored]
) -> Iterator[tuple[str, QuantizedMatrix]]:
    for name, shape in shapes.items():
        module = name.removesuffix(_WEIGHT)
        parts = Parts(module, method.suffixes, tensors)
        if len(shape) != 2 or not parts.quantized:
            continue
        if method.excludes(module):
            raise UserError(f"config.json says that {module} is not quantized, but the checkpoint has {parts.first}")
        matrix = method.matrix(name, shape, parts)
        if name in tensors and name not in matrix.tensors:
            raise UserError(f"the checkpoint has {name} twice, also as {parts.first}; remove one of the two")
        yield name, matrix


def _zero_biases(
    modules: Iterable[str], shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Stored]
) -> Iterator[str]:
    """Biases that the model lacks: some releases of GPTQ's writers added ones of zeros, which change nothing."""
    for name in modules:
        bias = bias_of(name.removesuffix(_WEIGHT))
        stored = tensors.get(bias)
        if stored and bias not in shapes and stored.dtype in FLOATS and not stored.floats().any():
            yield bias


def _refuse_unused(tensors: Mapping[str, Stored], known: set[str]) -> None:
    """Scales that nobody uses mean wrong weights."""
    for name, stored in tensors.items():
        if name not in known and _suffix(name) in _SUFFIXES:
            raise UserError(
                f"the checkpoint has the tensor {stored.name}, which belongs to no quantized matrix of the model"
            )


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]
