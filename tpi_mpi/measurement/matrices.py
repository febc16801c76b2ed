"""What products have to get through, format by format, and how long that takes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tpi_mpi.kernels.formats import Format, Tiled
from tpi_mpi.measurement.rates import Rates
from tpi_mpi.weights.slabs.experts import LayerExperts
from tpi_mpi.weights.slabs.extents import BlockExtent


@dataclass(frozen=True)
class Matrices:
    """The matrices of some blocks or experts, by format.

    nbytes: bytes of weights, scales and zero points. elements: how many weights.
    """

    nbytes: Mapping[Format, int]
    elements: Mapping[Format, int]

    @classmethod
    def of(cls, blocks: Iterable[BlockExtent]) -> "Matrices":
        nbytes: Counter = Counter()
        elements: Counter = Counter()
        for layout in (tensor.layout for block in blocks for tensor in block.tensors):
            if isinstance(layout, Tiled):
                nbytes[layout.format] += layout.nbytes
                elements[layout.format] += layout.elements
        return cls(nbytes, elements)

    @classmethod
    def of_row(cls, layers: Iterable[LayerExperts], top_k: int) -> "Matrices":
        """Those of ``top_k`` experts of each layer, of average size."""
        nbytes: Counter = Counter()
        elements: Counter = Counter()
        for own in layers:
            for kind, record in enumerate(own.records):
                count = top_k * int((own.kinds == kind).sum()) / len(own)
                for layout in record.matrices:
                    nbytes[layout.format] += count * layout.nbytes
                    elements[layout.format] += count * layout.elements
        return cls(*({format: round(count) for format, count in counts.items()} for counts in (nbytes, elements)))

    @property
    def main_format(self) -> Format:
        """The format of most weights."""
        return max(self.elements, key=self.elements.get)

    def token_seconds(self, rates: Rates) -> float:
        """Seconds that products with one row take."""
        return sum(nbytes / rates.of(format).gemv for format, nbytes in self.nbytes.items())

    def prompt_seconds(self, tokens: int, rates: Rates) -> float:
        """Seconds that products with as many rows take: two operations for each of them and each weight."""
        return sum(2 * tokens * elements / rates.of(format).gemm for format, elements in self.elements.items())

    def shared_seconds(self, rows: int, sets: float, rates: Rates) -> float:
        """Seconds that products with as many rows take, where each row has some of many sets of such matrices.

        sets: how many of them all rows have together. Each is read from memory once, at least.
        """
        return max(self.prompt_seconds(rows, rates), sets * self.token_seconds(rates))

    def to_json(self) -> dict:
        counts = {"nbytes": self.nbytes, "elements": self.elements}
        return {name: {str(format): count for format, count in values.items()} for name, values in counts.items()}

    @classmethod
    def from_json(cls, value: dict) -> "Matrices":
        counts = (value["nbytes"], value["elements"])
        return cls(*({Format.parse(name): count for name, count in values.items()} for values in counts))
