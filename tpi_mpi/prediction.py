"""What a partition of a model will take on machines that were measured.

The same reasoning as the floor's, with what each rank's memory budget leaves for the blocks that the partition gives
it, and the output head added to the products, because the other ranks wait for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from tpi_mpi.blocks import LAYERS
from tpi_mpi.budget import Plan, plan
from tpi_mpi.config import ModelConfig
from tpi_mpi.errors import UserError
from tpi_mpi.floor import RankRates, prompt_floor, token_floor
from tpi_mpi.model import ModelShare
from tpi_mpi.partition import Partition
from tpi_mpi.sketch import sketch
from tpi_mpi.slabs import Slab


@dataclass(frozen=True)
class Machine:
    """What one rank has, and what it can while the others do the same.

    host: where it runs. budget: bytes of memory it may take. taken: what of them the program takes before any
        weights, keys and values, or activations.
    read, memory, vector: bytes a second that it reads from its disk, reads from memory, and multiplies with one row.
    prompt: floating-point operations a second of products with the rows of a chunk.
    """

    host: str
    budget: int
    taken: int
    read: float
    memory: float
    vector: float
    prompt: float

    @classmethod
    def of(cls, rank: dict) -> "Machine":
        """Of one rank's part of a check's report."""
        return cls(rank["host"], rank["budget_bytes"], rank["taken_bytes"], **rank["rates"])


@dataclass(frozen=True)
class Work:
    """What is asked of the machines.

    prompt_tokens: length of the prompt. capacity: positions of the longest text. chunk: rows of a prompt that are
        computed together.
    token_sum, prompt_sum: seconds that the sums after one block take, of a token's and of all the prompt's rows.
    """

    prompt_tokens: int
    capacity: int
    chunk: int
    token_sum: float
    prompt_sum: float


@dataclass(frozen=True)
class Share:
    """One rank's part of a partition.

    blocks: bytes of each. elements: numbers in the layers. head: bytes of the output head, which rank 0 alone
        multiplies while the others wait. sums: blocks after which there is a sum over the ranks.
    fixed: bytes of memory that everything but weights takes.
    """

    blocks: Mapping[str, int]
    elements: int
    head: int
    sums: int
    fixed: int

    @classmethod
    def of(cls, slab: Slab, machine: Machine, work: Work) -> "Share":
        model = ModelShare(slab.config, slab.partition, slab.rank)
        kept = model.cache_size(work.capacity, getattr(torch, slab.dtype))
        layers = [extent for name, extent in slab.sweep.items() if name.startswith(LAYERS)]
        blocks = {name: extent.nbytes for name, extent in slab.sweep.items()}
        return cls(
            blocks=blocks,
            elements=sum(prod(tensor.shape) for extent in layers for tensor in extent.tensors),
            head=sum(blocks.values()) - sum(extent.nbytes for extent in layers),
            sums=len(layers),
            fixed=machine.taken + kept + model.activations(work.capacity, work.chunk),
        )

    @property
    def nbytes(self) -> int:
        return sum(self.blocks.values())


@dataclass(frozen=True)
class Prediction:
    """ttft, tpot: seconds to a prompt's first token from a cold disk, and of each token after it.

    pinned: bytes of weights that stay in memory, by rank.
    """

    ttft: float
    tpot: float
    pinned: tuple[int, ...]


def shares(
    config: ModelConfig, partition: Partition, dtypes: str | Mapping[str, str], machines: Sequence[Machine], work: Work
) -> list[Share]:
    """What the partition gives each rank."""
    slabs = (sketch(config, partition, rank, dtypes) for rank in range(partition.size))
    return [Share.of(slab, machine, work) for slab, machine in zip(slabs, machines, strict=True)]


def predict(shares: Sequence[Share], machines: Sequence[Machine], work: Work) -> Prediction:
    """Raises UserError, naming the rank, where a budget is too small for its share."""
    ranks = list(zip(shares, machines, strict=True))
    plans = [_plan(rank, share, machine) for rank, (share, machine) in enumerate(ranks)]
    pinned = tuple(
        sum(nbytes for name, nbytes in share.blocks.items() if name in own.pinned)
        for own, share in zip(plans, shares, strict=True)
    )
    rates = [_rates(*rank, stays) for rank, stays in zip(ranks, pinned, strict=True)]
    layers = max((share.nbytes - share.head) / machine.vector for share, machine in ranks)
    head = shares[0].head / machines[0].vector
    token = token_floor(rates, shares[0].sums, work.token_sum)
    prompt = prompt_floor(rates, work.prompt_tokens, shares[0].sums, work.prompt_sum)
    return Prediction(
        ttft=max(prompt.read, prompt.compute + prompt.allreduce + head),
        tpot=max(token.read, layers + token.allreduce + head),
        pinned=pinned,
    )


def _plan(rank: int, share: Share, machine: Machine) -> Plan:
    try:
        return plan(share.blocks, machine.budget, share.fixed)
    except UserError as error:
        raise UserError(f"rank {rank} on {machine.host}: {error}") from None


def _rates(share: Share, machine: Machine, pinned: int) -> RankRates:
    return RankRates(
        host=machine.host,
        weights=share.nbytes,
        elements=share.elements,
        streamed=share.nbytes - pinned,
        read=machine.read,
        memory=machine.memory,
        vector=machine.vector,
        prompt=machine.prompt,
    )
