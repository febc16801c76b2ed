"""How fast the ranks are, all measured at the same time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """How fast one rank is.

    read, memory: bytes per second that it reads from its disk, and from memory.
    vector: the GEMV rate: bytes of weights per second that it multiplies with one row.
    prompt: the GEMM rate: floating-point operations per second, in matrix products with the rows of a chunk.
    """

    read: float
    memory: float
    vector: float
    prompt: float


def shared_disks(hosts: Sequence[str], rates: Sequence[Rates], amounts: Sequence[int]) -> list[float]:
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
