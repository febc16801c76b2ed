"""Which rank holds which heads and columns, decided here and nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil

from tpi_mpi.common.errors import UserError
from tpi_mpi.model.config import ModelConfig

Bounds = tuple[int, int]
"""A half-open range, as (start, stop)."""

# Feed-forward columns are dealt in multiples of this many (whole groups of every format of weights, so that no scale is
# stored twice), or of fewer if that would leave the ranks unequal.
_MOST_COLUMNS_TOGETHER = 128


def bounds(total: int, ratios: Sequence[float], together: int = 1) -> tuple[Bounds, ...]:
    """Deals ``total`` things in order to one owner per ratio, in lots of ``together``; the last lot may be short.

    Every owner gets at least one lot, and otherwise comes as close to its ratio as whole lots allow. There must be at
    least as many lots as ratios.
    """
    lots = -(-total // together)
    assert lots >= len(ratios), f"{lots} lots cannot be dealt to {len(ratios)} owners"
    cuts = [0]
    for owner, up_to_here in enumerate(accumulate(ratios), start=1):
        wanted = round(lots * up_to_here / sum(ratios))
        cuts.append(min(max(wanted, cuts[-1] + 1), lots - (len(ratios) - owner)))
    return tuple(pairwise(min(cut * together, total) for cut in cuts))


# Experts are dealt in lots of this many columns, or of a group of their format. In which of so many ways what is left
# over is dealt changes from expert to expert, so that no rank has more of it than its part.
_EXPERT_LOT, _TURNS = 32, 16

_RANGES = ("heads", "columns", "vocabulary", "shared")


@dataclass(frozen=True)
class Partition:
    """How a model is dealt to ``size`` ranks. The same on every rank, and stored in every slab.

    heads: each rank's range of query heads.
    columns: each rank's range of feed-forward columns.
    vocabulary: the slices of the output head, as ranges of its rows; each is a block of its own, all on rank 0.
    heads_per_kv: number of query heads that read one key-value head.
    shared: each rank's range of columns of shared experts; empty if there are none.
    experts: the ways, in turn, in which experts are cut: each rank's range of columns; empty if there are none.
    period: the number of layers after which these begin anew, where layers link to earlier ones.
    """

    heads: tuple[Bounds, ...]
    columns: tuple[Bounds, ...]
    vocabulary: tuple[Bounds, ...]
    heads_per_kv: int
    shared: tuple[Bounds, ...] = ()
    experts: tuple[tuple[Bounds, ...], ...] = ()
    period: int = 1 << 30

    @property
    def size(self) -> int:
        return len(self.heads)

    def kv_heads(self, rank: int) -> Bounds:
        """The key-value heads that the rank's query heads read; it holds a copy of each, even if others do too."""
        start, stop = self.heads[rank]
        return start // self.heads_per_kv, -(-stop // self.heads_per_kv)

    def expert(self, layer: int, number: int) -> tuple[Bounds, ...]:
        """Each rank's range of columns of an expert."""
        return self.experts[(layer % self.period + number) % len(self.experts)]

    def to_json(self) -> dict:
        """The partition as slabs store it; of experts, only if there are any."""
        return {key: value for key, value in vars(self).items() if value != getattr(type(self), key, None)}

    @classmethod
    def from_json(cls, value: dict) -> "Partition":
        value = {"shared": (), **value}  # which is stored only where there are experts
        ranges = {key: _read_ranges(value[key]) for key in _RANGES}
        experts, period = tuple(map(_read_ranges, value.get("experts", ()))), int(value.get("period", cls.period))
        return cls(**ranges, heads_per_kv=int(value["heads_per_kv"]), experts=experts, period=period)

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        size: int,
        ratios: Sequence[float] | None = None,
        head_weight: float = 1.0,
        expert_group: int = _EXPERT_LOT,
    ) -> "Partition":
        """Deals the model to ``size`` ranks, in proportion to ``ratios`` or evenly.

        Shards are balanced by bytes: rank 0, which has the output head, gets fewer feed-forward columns in return, so
        that no rank waits for another with a larger shard. Experts are cut by the ratios alone, because all ranks read
        those of a token from their disks at once.

        head_weight: bytes of a weight of the output head, over those of a weight of the layers.
        expert_group: columns that share a scale in the format of experts.
        Raises UserError if there are more ranks than query heads or feed-forward columns, or if the ratios are not one
        positive number per rank.
        """
        ratios = tuple(ratios or (1.0,) * size)
        _check(config, size, ratios)
        heads_per_kv = config.num_attention_heads // config.num_key_value_heads
        heads = bounds(config.num_attention_heads, ratios)
        taken = [_attention_rows(config, own, heads_per_kv) for own in heads]
        taken[0] += head_weight * config.vocab_size / config.num_hidden_layers
        wanted = _columns_wanted(config, ratios, taken)
        columns = bounds(config.intermediate_size, wanted, _columns_together(config.intermediate_size, size))
        vocabulary, experts = _vocabulary_slices(config, heads, columns, head_weight), config.experts
        if experts is None:
            return cls(heads, columns, vocabulary, heads_per_kv)
        width = experts.shared_width
        shared = bounds(width, ratios, _columns_together(width, size)) if width else ()
        return cls(heads, columns, vocabulary, heads_per_kv, shared, _expert_cuts(experts.width, ratios, expert_group))


def _read_ranges(value: list) -> tuple[Bounds, ...]:
    return tuple((int(a), int(b)) for a, b in value)


def _expert_cuts(width: int, ratios: Sequence[float], group: int) -> tuple[tuple[Bounds, ...], ...]:
    """The ways in which experts are cut: in whole lots, each cut a lot later in as many ways as makes it fair."""
    lot = max(group, _EXPERT_LOT)
    while lot > 1 and (width // lot * min(ratios) < sum(ratios) or width < lot * len(ratios)):
        lot //= 2
    lots = -(-width // lot)
    shares = [part / sum(ratios) for part in accumulate(ratios)]
    ways = []
    for turn in range(_TURNS):
        cuts = [0]
        for owner, share in enumerate(shares[:-1], start=1):  # each owner gets at least one lot
            wanted = int(width / lot * share + turn / _TURNS)
            cuts.append(min(max(wanted, cuts[-1] + 1), lots - (len(ratios) - owner)))
        ways.append(tuple(pairwise(min(cut * lot, width) for cut in (*cuts, lots))))
    return tuple(ways[:1]) if len(set(ways)) == 1 else tuple(ways)


def _attention_rows(config: ModelConfig, heads: Bounds, heads_per_kv: int) -> int:
    """A rank's shard of an attention block (queries, keys, values, output), in rows of the hidden size."""
    start, stop = heads
    kv_heads = -(-stop // heads_per_kv) - start // heads_per_kv
    return 2 * config.head_dim * (stop - start + kv_heads)


def _columns_wanted(config: ModelConfig, ratios: Sequence[float], taken: Sequence[float]) -> list[float]:
    """Feed-forward columns per rank, of three rows each, that divide an average layer's rows by the ratios.

    taken: rows that each rank has without them: of attention and, on rank 0, a layer's part of the output head.
    """
    if config.experts:  # few layers have such columns, if any
        return list(ratios)
    rows = sum(taken) + 3 * config.intermediate_size
    least = 1 / config.intermediate_size  # for ranks that should get none: bounds() still gives them one lot
    return [max(least, (rows * ratio / sum(ratios) - own) / 3) for ratio, own in zip(ratios, taken, strict=True)]


def _check(config: ModelConfig, size: int, ratios: Sequence[float]) -> None:
    if len(ratios) != size:
        raise UserError(f"{len(ratios)} ratios for {size} ranks; one per rank is needed, as in {','.join('1' * size)}")
    if not all(0 < ratio < float("inf") for ratio in ratios):
        raise UserError(f"ratios {','.join(map(str, ratios))} are not all positive numbers")
    for what, limit in (
        ("query heads", config.num_attention_heads),
        ("feed-forward columns", config.intermediate_size),
        *([("columns of an expert", config.experts.width)] if config.experts else []),
    ):
        if size > limit:
            raise UserError(f"{size} ranks are more than the model's {limit} {what}; use --ranks {limit} or fewer")


def _columns_together(columns: int, size: int) -> int:
    """The size of a lot: the largest power of two that gives each rank some forty lots, so that ranks differ little."""
    together = _MOST_COLUMNS_TOGETHER
    while together > 1 and columns < 40 * size * together:
        together //= 2
    return together


def _vocabulary_slices(
    config: ModelConfig, heads: Sequence[Bounds], columns: Sequence[Bounds], head_weight: float
) -> tuple[Bounds, ...]:
    """Cuts the output head into slices no larger than any rank's largest layer block."""
    attention = max(2 * (stop - start) * config.head_dim for start, stop in heads)
    feed_forward = max(3 * (stop - start) for start, stop in columns)
    rows = max(attention, feed_forward if config.has_columns else 0)  # of the hidden size, like those of the head
    slices = ceil(config.vocab_size * head_weight / rows)
    return bounds(config.vocab_size, (1.0,) * slices)
