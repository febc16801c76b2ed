"""What a partition of a model will take on machines that were measured.

What each rank's memory budget leaves for the blocks that the partition gives it is planned as in a run, and the
sweeps are simulated.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from tpi_mpi.blocks import LAYERS
from tpi_mpi.budget import Plan, plan
from tpi_mpi.config import ModelConfig
from tpi_mpi.errors import UserError
from tpi_mpi.model import ModelShare
from tpi_mpi.partition import Partition
from tpi_mpi.simulation import Lane, Sweep, simulate
from tpi_mpi.sketch import sketch
from tpi_mpi.slabs import Slab

# Tokens of which the time is taken, after one that finds the window as the prompt left it.
_TOKENS = 2


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
    overlap: whether one chunk of the prompt is computed while another is added up.
    """

    prompt_tokens: int
    capacity: int
    chunk: int
    token_sum: float
    prompt_sum: float
    overlap: bool = False


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
    plans = [_plan(rank, share, machine) for rank, (share, machine) in enumerate(zip(shares, machines, strict=True))]
    lanes = [Lane(share.blocks, own.pinned, own.capacity) for share, own in zip(shares, plans, strict=True)]
    pinned = [sum(lane.blocks[name] for name in lane.pinned) for lane in lanes]
    streamed = [share.nbytes - stays for share, stays in zip(shares, pinned, strict=True)]
    prompt = Sweep(
        rates=_rates(machines, [share.nbytes for share in shares]),
        compute=[_prompt_seconds(*rank, work) for rank in zip(shares, machines, strict=True)],
        sums=work.prompt_sum,
        overlap=work.overlap,
    )
    token = Sweep(
        rates=_rates(machines, streamed),
        compute=[_token_seconds(*rank) for rank in zip(shares, machines, strict=True)],
        sums=work.token_sum,
    )
    ttft, *later = simulate(lanes, [prompt] + [token] * (1 + _TOKENS))
    return Prediction(ttft, (later[-1] - later[0]) / _TOKENS, tuple(pinned))


def _rates(machines: Sequence[Machine], amounts: Sequence[int]) -> list[float]:
    """Bytes a second that each rank reads: those of one host share its disk, and what one leaves the others get."""
    amount, rate = Counter(), Counter()
    for machine, nbytes in zip(machines, amounts, strict=True):
        amount[machine.host] += nbytes
        rate[machine.host] += machine.read
    return [
        rate[machine.host] * nbytes / amount[machine.host] if nbytes else machine.read
        for machine, nbytes in zip(machines, amounts, strict=True)
    ]


def _token_seconds(share: Share, machine: Machine) -> dict[str, float]:
    """By block."""
    return {name: nbytes / machine.vector for name, nbytes in share.blocks.items()}


def _prompt_seconds(share: Share, machine: Machine, work: Work) -> dict[str, float]:
    """By block. The output head is multiplied with one row even then."""
    layers = 2 * work.prompt_tokens * share.elements / machine.prompt / (share.nbytes - share.head)
    return {
        name: nbytes * layers if name.startswith(LAYERS) else nbytes / machine.vector
        for name, nbytes in share.blocks.items()
    }


def _plan(rank: int, share: Share, machine: Machine) -> Plan:
    try:
        return plan(share.blocks, machine.budget, share.fixed)
    except UserError as error:
        raise UserError(f"rank {rank} on {machine.host}: {error}") from None
