"""In which format each tensor of a model is stored: as its source has it, or as was asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.formats import CODES, FLOATS, Format
from tpi_mpi.model import names
from tpi_mpi.model.blocks import Block, Kind, TensorSpec, all_blocks, sources_of
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition

KEEP = "keep"
"""What is asked for to have every tensor stored as its source has it."""


@dataclass(frozen=True)
class StoredFormats:
    """The formats of a model's tensors; None keeps the source's.

    sources: the formats that the checkpoint's tensors have, by name.
    layers: of the matrices of the layers. head: of the output head. rest: dtype of the embedding, norms and biases.
    """

    sources: Mapping[str, Format]
    layers: Format | None = None
    head: Format | None = None
    rest: str | None = None

    @classmethod
    def asked(
        cls,
        sources: Mapping[str, Format],
        dtype: str = KEEP,
        head: str | None = None,
        group: int = 32,
        zero_points: bool = False,
    ) -> "StoredFormats":
        """From what a user asks for.

        dtype: of everything; if it is packed, of the layers' matrices alone, and the rest is kept.
        head: that of the output head: None for ``dtype``, or int8 where that is packed.
        group, zero_points: of int8 and int4; only int4 has zero points.
        """

        def format_of(asked: str) -> Format | None:
            return None if asked == KEEP else Format.of(asked, group, zero_points and asked == "int4")

        head = head or ("int8" if dtype in CODES else dtype)
        return cls(sources, format_of(dtype), format_of(head), dtype if dtype in FLOATS else None)

    @classmethod
    def like(cls, config: ModelConfig, dtype: str) -> "StoredFormats":
        """Those that a model has whose main dtype is this, as far as that alone tells."""
        shapes = sources_of(config, Partition.of(config, 1))
        plain = Format(dtype if dtype in FLOATS else "bfloat16")
        return cls.asked(dict.fromkeys(shapes, plain), dtype)

    def of(self, spec: TensorSpec) -> Format:
        """The format of one tensor. Raises UserError if that is packed but must not be."""
        format = self.chosen(spec) or self.sources[spec.source]
        if format.packed and not spec.multiplied:
            raise UserError(
                f"tensor {spec.source} is {format}; only matrices of the layers and the head may be packed; "
                "use --dtype bfloat16"
            )
        return format

    def chosen(self, spec: TensorSpec) -> Format | None:
        """What was chosen for one tensor; None keeps the source's."""
        if not spec.multiplied:
            return Format(self.rest) if self.rest else None
        return self.head if spec.name == names.weight_of(names.LM_HEAD) else self.layers

    def main_dtype(self, config: ModelConfig, partition: Partition) -> str:
        """The dtype of most weights of the model."""
        counts: Counter = Counter()
        for block in all_blocks(config, partition):
            for spec in block.tensors:
                counts[self.of(spec).dtype] += prod(spec.shape)
        return counts.most_common(1)[0][0]

    def partition(self, config: ModelConfig, size: int, ratios: Sequence[float] | None = None) -> Partition:
        """Deals the model to ``size`` ranks by bytes, in these formats. Raises as :meth:`Partition.of` does."""
        blocks = all_blocks(config, Partition.of(config, 1))
        specs = [spec for block in blocks for spec in block.tensors if spec.multiplied]
        head, layer = specs[-1], next(spec for spec in specs if spec.along in ("columns", "expert"))
        expert = next((spec for spec in specs if spec.along == "expert"), layer)
        return Partition.of(config, size, ratios, self.of(head).bits / self.of(layer).bits, self.of(expert).group)

    def described(self, config: ModelConfig, partition: Partition) -> dict[str, str]:
        """For people: the formats of the layers' matrices, experts, head, embedding, and of vectors (norms, biases)."""
        parts = ("layers", *(["experts"] if config.experts else []), "head", "embedding", "vectors")
        found: dict[str, set[str]] = {part: set() for part in parts}
        for block in all_blocks(config, partition):
            for spec in block.tensors:
                found[_part_of_model(block, spec)].add(str(self.of(spec)))
        return {part: " and ".join(sorted(formats)) for part, formats in found.items()}

    def to_json(self) -> dict:
        chosen = {"layers": self.layers, "head": self.head}
        return {
            "sources": {name: format.to_json() for name, format in self.sources.items()},
            **{name: format and format.to_json() for name, format in chosen.items()},
            "rest": self.rest,
        }

    @classmethod
    def from_json(cls, value: dict) -> "StoredFormats":
        sources = {name: Format.from_json(format) for name, format in value["sources"].items()}
        layers, head = (value[name] and Format.from_json(value[name]) for name in ("layers", "head"))
        return cls(sources, layers, head, value["rest"])


def _part_of_model(block: Block, spec: TensorSpec) -> str:
    if spec.width is None or (block.kind is Kind.ROUTER and not spec.multiplied):
        return "vectors"
    if block.kind is Kind.EXPERT:
        return "experts"
    if block.layer is not None:
        return "layers"
    return "head" if spec.multiplied else "embedding"
