"""How fast the ranks are, all measured at the same time."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tpi_mpi.kernels.formats import Format


@dataclass(frozen=True)
class ProductRates:
    """How fast one rank multiplies with matrices in one format.

    gemv: the GEMV rate: bytes of weights and scales per second, in products with one row.
    gemm: the GEMM rate: floating-point operations per second, in products with the rows of a chunk.
    """

    gemv: float
    gemm: float


@dataclass(frozen=True)
class Rates:
    """How fast one rank is.

    read, memory: bytes per second that it reads from its disk, if that could be measured, and from memory.
    products: by format, as far as measured; at least one.
    """

    read: float | None
    memory: float
    products: Mapping[Format, ProductRates]

    def of(self, format: Format) -> ProductRates:
        """Those of products in a format or, if it was not measured, in the one that is most like it.

        That is one of the same dtype, if there is any, and among several the one whose weights take the most similar
        number of bits, scales and zero points included.
        """

        def difference(other: Format) -> tuple[bool, bool, float]:
            return other != format, other.dtype != format.dtype, abs(other.bits - format.bits)

        return self.products[min(self.products, key=difference)]

    def to_json(self) -> dict:
        products = {str(format): asdict(rates) for format, rates in self.products.items()}
        return {"read": self.read, "memory": self.memory, "products": products}

    @classmethod
    def from_json(cls, value: dict) -> "Rates":
        """Raises KeyError, TypeError or ValueError if it is something else."""
        products = {Format.parse(name): ProductRates(**rates) for name, rates in dict(value["products"]).items()}
        if not products:
            raise ValueError("no format was measured")
        return cls(value["read"], value["memory"], products)


def shared_disks(hosts: Sequence[str], rates: Sequence[Rates], amounts: Sequence[float]) -> list[float]:
    """Bytes per second at which each rank reads its ``amounts`` of bytes, where the ranks of one host share its disk.

    Each gets as much of the disk's rate as it has to read, so that all of a host's ranks are done at the same time.
    """
    amount, rate = Counter(), Counter()
    for host, own, nbytes in zip(hosts, rates, amounts, strict=True):
        amount[host] += nbytes
        rate[host] += own.read
    return [
        rate[host] * nbytes / amount[host] if nbytes else own.read
        for host, own, nbytes in zip(hosts, rates, amounts, strict=True)
    ]
