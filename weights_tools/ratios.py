"""Shares for unequal machines, from what tpi_mpi.check measured of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.config import ModelConfig
from tpi_mpi.errors import UserError
from tpi_mpi.keys import Keys
from tpi_mpi.partition import Partition
from tpi_mpi.prediction import Machine, Prediction, Share, Work, predict, shares
from tpi_mpi.table import show_seconds

# How often shares are computed anew from what those before them leave of each budget.
_ROUNDS = 4


@dataclass(frozen=True)
class Ability:
    """What bounds one rank's share of the weights.

    room: bytes that stay in memory where nothing is streamed. window: how many of them the window takes where
        something is. read, product: bytes a second that it streams, and multiplies.
    """

    room: int
    window: int
    read: float
    product: float

    def bytes_within(self, seconds: float, sums: float) -> float:
        """Bytes of weights that it gets through in a token's time, ``sums`` of which it communicates."""
        streaming = self.room - self.window + self.read * seconds
        return max(0.0, min(max(self.room, streaming), self.product * (seconds - sums)))


@dataclass(frozen=True)
class Choice:
    """ratios: one a rank, None for equal ones. expected: of them. equal: of equal ones, None where they cannot be."""

    ratios: tuple[float, ...] | None
    expected: Prediction
    equal: Prediction | None


def deal(abilities: Sequence[Ability], nbytes: int, sums: float) -> list[float]:
    """Bytes for each rank, ``nbytes`` in all, so that all are done at the same time, the earliest possible."""
    low = high = sums + 1e-6
    while _dealt(abilities, high, sums) < nbytes:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if _dealt(abilities, middle, sums) >= nbytes else (middle, high)
    dealt = [ability.bytes_within(high, sums) for ability in abilities]
    return [own * nbytes / sum(dealt) for own in dealt]


def _dealt(abilities: Sequence[Ability], seconds: float, sums: float) -> float:
    return sum(ability.bytes_within(seconds, sums) for ability in abilities)


class CheckReport:
    """What weights_tools needs of the file that tpi_mpi.check --report wrote.

    Raises UserError, on construction, where it is not one, or of another model or number of ranks.
    """

    def __init__(self, path: Path, config: ModelConfig, ranks: int):
        report = Keys.load(path)
        if not {"world_size", "work", "ranks"} <= set(report.values):
            report.refuse("is not a report of tpi_mpi.check; write one with mpirun ... tpi_mpi.check --report")
        if report.positive("world_size") != ranks:
            report.refuse(f"is of {report.get('world_size')} ranks, not of {ranks}; give --ranks the same number")
        for key in ("hidden_size", "num_hidden_layers"):
            if report.positive(key) != getattr(config, key):
                report.refuse(f"is of another model ({report.get('model')}); check again with this one")
        if not all(rank["rates"]["read"] for rank in report.get("ranks")):
            report.refuse("has a rank whose disk was not measured; see to what its problems say and check again")
        self.dtype = report.get("dtype")
        self.allreduce = report.get("allreduce")
        self.machines = [Machine.of(rank) for rank in report.get("ranks")]
        self.work = Work(**report.object("work"))


def choose(config: ModelConfig, dtypes: Mapping[str, str], machines: Sequence[Machine], work: Work) -> Choice:
    """The ratios under which a token is expected to take the least. Raises UserError where no ratios would do."""
    equal = shares(config, Partition.of(config, len(machines)), dtypes, machines, work)
    tried, current = [(None, _try(equal, machines, work))], equal
    for _ in range(_ROUNDS):
        ratios = tuple(deal(_abilities(current, machines), _total(current), _sums(current, work)))
        ratios = tuple(max(ratio, 1e-3 * sum(ratios)) for ratio in ratios)
        current = shares(config, Partition.of(config, len(machines), ratios), dtypes, machines, work)
        tried.append((ratios, _try(current, machines, work)))
    works = [(ratios, result) for ratios, result in tried if isinstance(result, Prediction)]
    if not works:
        raise tried[-1][1]
    ratios, best = min(works, key=lambda pair: pair[1].tpot)
    return Choice(ratios, best, tried[0][1] if isinstance(tried[0][1], Prediction) else None)


def describe(choice: Choice, report: CheckReport) -> Iterator[str]:
    """Lines that say what was chosen and what is expected of it."""
    shown = ",".join(f"{ratio / max(choice.ratios):.3f}" for ratio in choice.ratios) if choice.ratios else "equal"
    yield f"ratios of {len(report.machines)} ranks: {shown}"
    yield f"expected with --allreduce {report.allreduce}: {_times(choice.expected, report.work)}"
    equal = _times(choice.equal, report.work) if choice.equal else "some rank has not the memory for its share"
    yield f"with equal shares: {equal}"


def _times(prediction: Prediction, work: Work) -> str:
    ttft, tpot = show_seconds(prediction.ttft), show_seconds(prediction.tpot)
    return f"{ttft} to the first token of a prompt of {work.prompt_tokens} tokens, then {tpot} for each"


def _try(given: Sequence[Share], machines: Sequence[Machine], work: Work) -> Prediction | UserError:
    try:
        return predict(given, machines, work)
    except UserError as error:
        return error


def _abilities(given: Sequence[Share], machines: Sequence[Machine]) -> list[Ability]:
    return [
        Ability(
            room=max(0, machine.budget - share.fixed),
            window=2 * max(share.blocks.values()),
            read=machine.read,
            product=machine.vector,
        )
        for share, machine in zip(given, machines, strict=True)
    ]


def _total(given: Sequence[Share]) -> int:
    return sum(share.nbytes for share in given)


def _sums(given: Sequence[Share], work: Work) -> float:
    return work.token_sum * sum(name.startswith("layers.") for name in given[0].blocks)
