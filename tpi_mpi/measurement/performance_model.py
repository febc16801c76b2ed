"""How long a partition of a model will take on machines that were measured.

Each rank's memory budget is planned as in a run, for the blocks and experts that the partition gives it; then sweeps
are simulated. Of the experts that a router asks for, those that are not in memory are read after it: how often they can
be guessed ahead, nothing here tells.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from tpi_mpi.common.errors import UserError
from tpi_mpi.engine.demand import Demand
from tpi_mpi.measurement.experts.shard import ShardExperts
from tpi_mpi.measurement.matrices import Matrices
from tpi_mpi.measurement.rates import Rates, shared_disks
from tpi_mpi.measurement.simulator import Lane, Sweep, simulate
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.model.transformer import shapes_of
from tpi_mpi.weights.budget import Plan, plan
from tpi_mpi.weights.slabs.slab import Slab, planned_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats

# Tokens that are timed, after one that finds the window as the prompt left it.
_TOKENS = 2


@dataclass(frozen=True)
class Machine:
    """One rank's machine, as measured while the others were measured too.

    host: where it runs. budget: bytes of memory that the rank may take. taken: how many of them the program takes
        without any weights, keys and values, or activations.
    """

    host: str
    budget: int
    taken: int
    rates: Rates

    @classmethod
    def of(cls, rank: dict) -> "Machine":
        """From one rank's entry in the report of a check."""
        return cls(rank["host"], rank["budget_bytes"], rank["taken_bytes"], Rates.from_json(rank["rates"]))


@dataclass(frozen=True)
class Work:
    """What is asked of the machines.

    prompt_tokens: length of the prompt. capacity: positions of the longest sequence. chunk: the most rows of a prompt
        that are computed together.
    token_sum, prompt_sum: seconds that the sums after one block take, for a later sweep, and for all chunks of the
        prompt.
    overlap: whether one chunk of the prompt is computed while another is summed.
    hit_rate: the part of a token's experts that are in memory; None for what :mod:`.experts.hits` assumes.
    rows: of a sweep after the prompt: a token's, and those of what is drafted after it.
    """

    prompt_tokens: int
    capacity: int
    chunk: int
    token_sum: float
    prompt_sum: float
    overlap: bool = False
    hit_rate: float | None = None
    rows: int = 1


@dataclass(frozen=True)
class Shard:
    """What one rank has to hold and to compute under a partition.

    blocks: bytes of memory that each takes, by name. layers: those of them that every rank has, each followed by a sum
        over the ranks; the others are the output head, which rank 0 alone computes while the other ranks wait.
    matrices: what each block's products have to get through, by name.
    experts: those that routers choose among.
    fixed: bytes of memory that the sequence takes besides weights.
    """

    blocks: Mapping[str, int]
    layers: Set[str]
    matrices: Mapping[str, Matrices]
    experts: ShardExperts
    fixed: int

    @classmethod
    def of(cls, slab: Slab, capacity: int, chunk: int) -> "Shard":
        """capacity, chunk: as of :class:`Work`."""
        shapes = shapes_of(slab.config, slab.partition, slab.rank)
        room = Demand.of_one(capacity).room(1, slab.config.hidden_size)
        return cls(
            blocks=slab.resident,
            layers=frozenset(slab.layers),
            matrices={name: Matrices.of([extent]) for name, extent in slab.sweep.items()},
            experts=ShardExperts.of(slab),
            fixed=room.memory(slab.config, shapes, slab.kv_dtype, chunk, slab.rank),
        )

    @property
    def swept(self) -> int:
        """Bytes of the blocks of every sweep."""
        return sum(self.blocks.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all weights, experts included."""
        return self.swept + self.experts.nbytes

    def token_seconds(self, rates: Rates) -> dict[str, float]:
        """Seconds that a token takes to compute, by block."""
        return {name: matrices.token_seconds(rates) for name, matrices in self.matrices.items()}

    def prompt_seconds(self, tokens: int, rates: Rates) -> dict[str, float]:
        """Seconds that a prompt takes to compute, by block. The output head sees only one row of it."""
        layers = {name: self.matrices[name].prompt_seconds(tokens, rates) for name in self.layers}
        return self.token_seconds(rates) | layers

    def sweep_seconds(self, rows: int, rates: Rates) -> dict[str, float]:
        """Seconds that a sweep of a few rows takes to compute, by block: its weights are read from memory once."""
        if rows == 1:
            return self.token_seconds(rates)
        blocks = self.matrices.items()
        return {name: max(own.token_seconds(rates), own.prompt_seconds(rows, rates)) for name, own in blocks}

    def head_seconds(self, rates: Rates) -> float:
        """Seconds that the output head takes to compute."""
        return sum(seconds for name, seconds in self.token_seconds(rates).items() if name not in self.layers)

    def plan(self, budget: int, taken: int) -> Plan:
        """Which blocks stay, and how many slots there are for experts. Raises UserError if the budget is too small.

        taken: bytes of it that the program takes before any of the shard's.
        """
        return plan(self.blocks, budget, taken + self.fixed, experts=self.experts.sizes)


@dataclass(frozen=True)
class Prediction:
    """ttft: seconds to a prompt's first token, from a cold disk. tpot: seconds of each token after it, or of each
    sweep if that has several rows.

    pinned: bytes of blocks that stay in memory. kept: experts that do.
    hit_rates: the part of a token's experts that are there. All three are in rank order.
    """

    ttft: float
    tpot: float
    pinned: tuple[int, ...]
    kept: tuple[int, ...]
    hit_rates: tuple[float, ...]


def shards(config: ModelConfig, partition: Partition, formats: StoredFormats, work: Work) -> list[Shard]:
    """What the partition gives each rank, in rank order."""
    ranks = range(partition.size)
    return [Shard.of(planned_slab(config, partition, rank, formats), work.capacity, work.chunk) for rank in ranks]


def predict(shards: Sequence[Shard], machines: Sequence[Machine], work: Work) -> Prediction:
    """The times to expect. Raises UserError, naming the rank, if a budget is too small for its shard."""
    plans = [_plan(rank, shard, machine) for rank, (shard, machine) in enumerate(zip(shards, machines, strict=True))]
    lanes = [Lane(shard.blocks, own.pinned, own.capacity) for shard, own in zip(shards, plans, strict=True)]
    pinned = [sum(lane.blocks[name] for name in lane.pinned) for lane in lanes]
    hits = [shard.experts.hit_rate(own.slots, work.hit_rate) for shard, own in zip(shards, plans, strict=True)]
    read = [
        shard.swept - stays + shard.experts.row_bytes * (1 - hit)
        for shard, stays, hit in zip(shards, pinned, hits, strict=True)
    ]
    pairs = [(shard, machine.rates) for shard, machine in zip(shards, machines, strict=True)]
    prompt = Sweep(
        rates=_reading(machines, [shard.swept + shard.experts.prompt_bytes(work.prompt_tokens) for shard in shards]),
        compute=[shard.prompt_seconds(work.prompt_tokens, rates) for shard, rates in pairs],
        sums=work.prompt_sum,
        overlap=work.overlap,
        experts=[shard.experts.of_prompt(work.prompt_tokens, rates) for shard, rates in pairs],
    )
    token = Sweep(
        rates=_reading(machines, read),
        compute=[shard.sweep_seconds(work.rows, rates) for shard, rates in pairs],
        sums=work.token_sum,
        experts=[shard.experts.of_token(hit, rates) for (shard, rates), hit in zip(pairs, hits, strict=True)],
    )
    ttft, *later = simulate(lanes, [prompt] + [token] * (1 + _TOKENS))
    kept = [shard.experts.kept(own.slots) for shard, own in zip(shards, plans, strict=True)]
    return Prediction(ttft, (later[-1] - later[0]) / _TOKENS, tuple(pinned), tuple(kept), tuple(hits))


def _reading(machines: Sequence[Machine], amounts: Sequence[float]) -> list[float]:
    return shared_disks([machine.host for machine in machines], [machine.rates for machine in machines], amounts)


def _plan(rank: int, shard: Shard, machine: Machine) -> Plan:
    try:
        return shard.plan(machine.budget, machine.taken)
    except UserError as error:
        raise UserError(f"rank {rank} on {machine.host}: {error}") from None
