"""What a partition of a model will take on machines that were measured.

What each rank's memory budget leaves for the blocks that the partition gives it is planned as in a run, and the
sweeps are simulated.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import prod

from tpi_mpi.common.errors import UserError
from tpi_mpi.measurement.rates import Rates, shared_disks
from tpi_mpi.measurement.simulator import Lane, Sweep, simulate
from tpi_mpi.model.blocks import shard_blocks
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights.budget import Plan, plan
from tpi_mpi.weights.slab import Dtypes, Slab, planned_slab

# Tokens of which the time is taken, after one that finds the window as the prompt left it.
_TOKENS = 2


@dataclass(frozen=True)
class Machine:
    """What one rank has, and what it can while the others do the same.

    host: where it runs. budget: bytes of memory it may take. taken: what of them the program takes before any
        weights, keys and values, or activations.
    """

    host: str
    budget: int
    taken: int
    rates: Rates

    @classmethod
    def of(cls, rank: dict) -> "Machine":
        """Of one rank's part of a check's report."""
        return cls(rank["host"], rank["budget_bytes"], rank["taken_bytes"], Rates(**rank["rates"]))


@dataclass(frozen=True)
class Work:
    """What is asked of the machines.

    prompt_tokens: length of the prompt. capacity: positions of the longest sequence. chunk: rows of a prompt that are
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
class Shard:
    """What one rank has to hold and to do under a partition.

    blocks: bytes of memory that each takes, by name. layers: those of them that all ranks have, after each of which
        there is a sum over the ranks; the others, the output head, rank 0 alone multiplies while the others wait.
    elements: numbers in the layers. fixed: bytes of memory that the sequence takes besides weights.
    """

    blocks: Mapping[str, int]
    layers: Set[str]
    elements: int
    fixed: int

    @classmethod
    def of(cls, slab: Slab, work: Work) -> "Shard":
        blocks = shard_blocks(slab.config, slab.partition, slab.rank)
        layers = frozenset(block.name for block in blocks if block.layer is not None)
        model = ModelShard(slab.config, slab.partition, slab.rank, slab.kv_dtype)
        return cls(
            blocks=slab.resident,
            layers=layers,
            elements=sum(prod(tensor.shape) for name in layers for tensor in slab.blocks[name].tensors),
            fixed=model.memory(work.capacity, work.chunk),
        )

    @property
    def nbytes(self) -> int:
        return sum(self.blocks.values())

    @property
    def head(self) -> int:
        """Bytes of the output head."""
        return sum(nbytes for name, nbytes in self.blocks.items() if name not in self.layers)

    def plan(self, machine: Machine) -> Plan:
        """What of it stays in the machine's memory. Raises UserError where the machine's budget is too small."""
        return plan(self.blocks, machine.budget, machine.taken + self.fixed)


@dataclass(frozen=True)
class Prediction:
    """ttft, tpot: seconds to a prompt's first token from a cold disk, and of each token after it.

    pinned: bytes of weights that stay in memory, by rank.
    """

    ttft: float
    tpot: float
    pinned: tuple[int, ...]


def shards(config: ModelConfig, partition: Partition, dtypes: Dtypes, work: Work) -> list[Shard]:
    """What the partition gives each rank."""
    ranks = range(partition.size)
    return [Shard.of(planned_slab(config, partition, rank, dtypes), work) for rank in ranks]


def predict(shards: Sequence[Shard], machines: Sequence[Machine], work: Work) -> Prediction:
    """Raises UserError, naming the rank, where a budget is too small for its shard."""
    plans = [_plan(rank, shard, machine) for rank, (shard, machine) in enumerate(zip(shards, machines, strict=True))]
    lanes = [Lane(shard.blocks, own.pinned, own.capacity) for shard, own in zip(shards, plans, strict=True)]
    pinned = [sum(lane.blocks[name] for name in lane.pinned) for lane in lanes]
    streamed = [shard.nbytes - stays for shard, stays in zip(shards, pinned, strict=True)]
    prompt = Sweep(
        rates=_reading(machines, [shard.nbytes for shard in shards]),
        compute=[_prompt_seconds(*rank, work) for rank in zip(shards, machines, strict=True)],
        sums=work.prompt_sum,
        overlap=work.overlap,
    )
    token = Sweep(
        rates=_reading(machines, streamed),
        compute=[_token_seconds(*rank) for rank in zip(shards, machines, strict=True)],
        sums=work.token_sum,
    )
    ttft, *later = simulate(lanes, [prompt] + [token] * (1 + _TOKENS))
    return Prediction(ttft, (later[-1] - later[0]) / _TOKENS, tuple(pinned))


def _reading(machines: Sequence[Machine], amounts: Sequence[int]) -> list[float]:
    return shared_disks([machine.host for machine in machines], [machine.rates for machine in machines], amounts)


def _token_seconds(shard: Shard, machine: Machine) -> dict[str, float]:
    """By block."""
    return {name: nbytes / machine.rates.vector for name, nbytes in shard.blocks.items()}


def _prompt_seconds(shard: Shard, machine: Machine, work: Work) -> dict[str, float]:
    """By block. The output head is multiplied with one row even then."""
    layers = 2 * work.prompt_tokens * shard.elements / machine.rates.prompt / (shard.nbytes - shard.head)
    return {
        name: nbytes * layers if name in shard.layers else nbytes / machine.rates.vector
        for name, nbytes in shard.blocks.items()
    }


def _plan(rank: int, shard: Shard, machine: Machine) -> Plan:
    try:
        return shard.plan(machine)
    except UserError as error:
        raise UserError(f"rank {rank} on {machine.host}: {error}") from None
