"""Ratios for unequal machines, from what tpi_mpi.check measured on them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.common.units import show_seconds
from tpi_mpi.measurement.experts.hits import assumed_hit_rate
from tpi_mpi.measurement.performance_model import Machine, Prediction, Shard, Work, predict, shards
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.weights.slabs.stored_formats import StoredFormats

# How often ratios are computed anew, from the room that those before them leave in each budget.
_ROUNDS = 4
# Gains over equal ratios below this fraction of a token's time are taken for noise in the measurement.
_GAIN = 0.03


@dataclass(frozen=True)
class Ability:
    """What bounds one rank's shard of the weights.

    room: bytes of weights that fit in memory if nothing is streamed. window: how many of them the window takes if
        something is. read, gemv: bytes per second that it streams, and that it multiplies with one row.
    idle: seconds of each token in which it multiplies nothing. most: bytes up to which its largest block still fits.
    experts: the part of its bytes that are experts. routed: the part that are experts of a token.
    hit_rate: the part of a token's experts that are in memory where a part of all experts is.
    """

    room: int
    window: int
    read: float
    gemv: float
    idle: float
    most: float = inf
    experts: float = 0.0
    routed: float = 0.0
    hit_rate: Callable[[float], float] = assumed_hit_rate

    def bytes_within(self, seconds: float) -> float:
        """The most bytes of weights with which a token takes ``seconds``."""
        if self.experts:
            return _largest(lambda nbytes: self._seconds_with_experts(nbytes) <= seconds, self.most)
        streaming = self.room - self.window + self.read * seconds
        return max(0.0, min(max(self.room, streaming), self.gemv * (seconds - self.idle), self.most))

    def _seconds_with_experts(self, nbytes: float) -> float:
        """What a token takes with so many bytes of weights: experts that are missing are read while others compute."""
        blocks = nbytes * (1 - self.experts)
        spare = self.room - blocks
        streamed = 0.0 if spare >= 0 else self.window - spare
        missed = nbytes * self.routed * (1 - self.hit_rate(max(0.0, spare) / (nbytes * self.experts)))
        computing = blocks / self.gemv + max(missed / self.read, nbytes * self.routed / self.gemv)
        return max((streamed + missed) / self.read, self.idle + computing)


def _largest(fits: Callable[[float], bool], most: float) -> float:
    """The largest number up to ``most`` that fits, where all smaller ones do."""
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    ratios: one per rank; None for equal ones. expected: what they will take. equal: what equal ones would take; None if
    these do not fit.
    """

    ratios: tuple[float, ...] | None
    expected: Prediction
    equal: Prediction | None


def deal(abilities: Sequence[Ability], nbytes: int) -> list[float]:
    """Bytes for each rank, ``nbytes`` in all, such that all ranks finish at the same time, as early as possible."""
    most = [ability.most for ability in abilities]
    if sum(most) <= nbytes:
        return [own * nbytes / max(1, sum(most)) for own in most]
    low, high = 0.0, 1e-6
    while _dealt(abilities, high) < nbytes:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if _dealt(abilities, middle) >= nbytes else (middle, high)
    dealt = [ability.bytes_within(high) for ability in abilities]
    return [own * nbytes / sum(dealt) for own in dealt]


def _dealt(abilities: Sequence[Ability], seconds: float) -> float:
    return sum(ability.bytes_within(seconds) for ability in abilities)


class CheckReport:
    """What weights_tools needs from the file that tpi_mpi.check --report wrote.

    Raises UserError, on construction, if it is no such file, or is for another model or number of ranks.
    """

    def __init__(self, path: Path, config: ModelConfig, ranks: int):
        report = JsonObject.load(path)
        try:
            self._read(report.values)
        except (KeyError, TypeError, ValueError):
            report.refuse("is not a report of tpi_mpi.check; write one with mpirun ... tpi_mpi.check --report")
        if len(self.machines) != ranks:
            report.refuse(f"is for {len(self.machines)} ranks, not for {ranks}; give --ranks {len(self.machines)}")
        if self._sizes != (config.hidden_size, config.num_hidden_layers):
            report.refuse(f"is for another model ({report.get('model')}); check again with this one")
        if not all(machine.rates.read for machine in self.machines):
            report.refuse("has a rank whose disk was not measured; solve its problems and check again")

    def _read(self, report: Mapping) -> None:
        self.allreduce = str(report["allreduce"])
        self.machines = [Machine.of(rank) for rank in report["ranks"]]
        self.work = Work(**report["work"])
        self._sizes = (report["hidden_size"], report["num_hidden_layers"])


def choose(config: ModelConfig, formats: StoredFormats, machines: Sequence[Machine], work: Work) -> Choice:
    """The ratios with which a token is expected to take the least time; equal ones unless others are clearly faster.

    Raises UserError, naming a rank without room, if no ratios that were tried fit.
    """
    equal = shards(config, formats.partition(config, len(machines)), formats, work)
    tried, current = [(None, _try(equal, machines, work))], equal
    for _ in range(_ROUNDS):
        ratios = tuple(deal(_abilities(current, machines, work), sum(shard.nbytes for shard in current)))
        ratios = tuple(max(ratio, 1e-3 * sum(ratios)) for ratio in ratios)
        current = shards(config, formats.partition(config, len(machines), ratios), formats, work)
        tried.append((ratios, _try(current, machines, work)))
    works = [(ratios, result) for ratios, result in tried if isinstance(result, Prediction)]
    if not works:
        raise tried[-1][1]
    ratios, best = min(works, key=lambda pair: pair[1].tpot)
    first, same = works[0]
    if first is None and best.tpot > same.tpot * (1 - _GAIN):
        return Choice(None, same, same)
    return Choice(ratios, best, None if first else same)


def describe(choice: Choice, report: CheckReport) -> Iterator[str]:
    """Lines that say what was chosen and what to expect of it."""
    shown = ",".join(f"{ratio / max(choice.ratios):.3f}" for ratio in choice.ratios) if choice.ratios else "equal"
    yield f"ratios of {len(report.machines)} ranks: {shown}"
    yield f"expected with --allreduce {report.allreduce}: {_times(choice.expected, report.work)}"
    equal = _times(choice.equal, report.work) if choice.equal else "some rank lacks the memory for its shard"
    yield f"with equal ratios: {equal}"


def _times(prediction: Prediction, work: Work) -> str:
    ttft, tpot = show_seconds(prediction.ttft), show_seconds(prediction.tpot)
    return f"{ttft} to the first token of a prompt of {work.prompt_tokens} tokens, then {tpot} for each"


def _try(given: Sequence[Shard], machines: Sequence[Machine], work: Work) -> Prediction | UserError:
    try:
        return predict(given, machines, work)
    except UserError as error:
        return error


def _abilities(given: Sequence[Shard], machines: Sequence[Machine], work: Work) -> list[Ability]:
    head = given[0].head_seconds(machines[0].rates)  # for which all others wait
    return [
        _ability(shard, machine, work.token_sum * len(shard.layers) + (head if rank else 0), work.hit_rate)
        for rank, (shard, machine) in enumerate(zip(given, machines, strict=True))
    ]


def _ability(shard: Shard, machine: Machine, idle: float, hit_rate: float | None) -> Ability:
    room, largest = max(0, machine.budget - machine.taken - shard.fixed), max(shard.blocks.values())
    experts, token = shard.experts, sum(shard.token_seconds(machine.rates).values())
    token += sum(asked.seconds for asked in experts.of_token(1.0, machine.rates).values())
    needed = largest + (experts.sizes.least * experts.sizes.size if experts.sizes else 0)
    return Ability(
        room=room,
        window=2 * largest,
        read=machine.rates.read,
        gemv=(shard.swept + experts.row_bytes) / token,
        idle=idle,
        most=shard.nbytes * room / needed,
        experts=experts.nbytes / shard.nbytes,
        routed=experts.row_bytes / shard.nbytes,
        hit_rate=assumed_hit_rate if hit_rate is None else lambda part: 1.0 if part >= 1 else hit_rate,
    )
