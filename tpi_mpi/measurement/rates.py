"""How fast the ranks are, each while the others do the same."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """What one rank can do.

    read, memory: bytes a second that it reads from its disk, and from memory.
    vector: bytes of weights a second that it multiplies with one row, the GEMV rate.
    prompt: floating-point operations a second of products with the rows of a chunk, the GEMM rate.
    """

    read: float
    memory: float
    vector: float
    prompt: float


def shared_disks(hosts: Sequence[str], rates: Sequence[Rates], amounts: Sequence[int]) -> list[float]:
    """Bytes a second with which each rank reads so many bytes: ranks of one host share its disk.

    What one of them leaves of the disk, the others get.
    """
    amount, rate = Counter(), Counter()
    for host, own, nbytes in zip(hosts, rates, amounts, strict=True):
        amount[host] += nbytes
        rate[host] += own.read
    return [
        rate[host] * nbytes / amount[host] if nbytes else own.read
        for host, own, nbytes in zip(hosts, rates, amounts, strict=True)
    ]
