"""What a run took: measured on every rank, assembled on rank 0."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from statistics import median, quantiles

from tpi_mpi.common.files import check_writable, replace_file
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.common.trace import ACTIVITIES, Trace, trace_events
from tpi_mpi.common.units import format_size
from tpi_mpi.weights.experts.counts import ExpertUsage

# Times of tokens that are kept, at most.
_MOST_TIMES = 100_000


class Sample:
    """Numbers of which the quantiles are wanted: all of them or, of very many, a random part."""

    def __init__(self):
        self.values: list[float] = []
        self.count = 0
        self._random = Random(0)

    def add(self, value: float) -> None:
        self.count += 1
        if len(self.values) < _MOST_TIMES:
            self.values.append(value)
        elif (place := self._random.randrange(self.count)) < _MOST_TIMES:
            self.values[place] = value


class Latencies:
    """Seconds that the tokens of a run took: ``first``, each request's first token; ``later``, all others."""

    def __init__(self):
        self.first, self.later = Sample(), Sample()

    def add(self, seconds: float, first: bool) -> None:
        """Records the time of one token. first: whether it is its request's first."""
        (self.first if first else self.later).add(seconds)


@dataclass
class DraftCounts:
    """Tokens that were drafted, and those of them that turned out right."""

    drafted: int = 0
    accepted: int = 0


class Throughput:
    """What a run's sweeps have done.

    requests: that have ended. cached_tokens: of their prompts, whose keys and values were there already.
    sweeps, rows, prompt_rows: how many there were. tokens: new ones. seconds: of all sweeps and drafts.
    decode_seconds, decode_tokens: of the sweeps that computed new tokens alone.
    turns, turn_tokens: how often sequences that were past their prompts took part in a sweep, and the tokens of that.
    drafts: drafted tokens and accepted ones, by kind of draft.
    """

    def __init__(self):
        self.requests = self.cached_tokens = 0
        self.sweeps = self.rows = self.prompt_rows = self.tokens = self.decode_tokens = 0
        self.turns = self.turn_tokens = 0
        self.drafts: dict[str, DraftCounts] = {}
        self.seconds = self.decode_seconds = 0.0
        self._decoded = False  # whether the last sweep counts for these

    def end(self, cached_tokens: int) -> None:
        """Records the end of a request."""
        self.requests, self.cached_tokens = self.requests + 1, self.cached_tokens + cached_tokens

    def draft(self, kind: str, drafted: int, accepted: int) -> None:
        """Records what became of a draft."""
        counts = self.drafts.setdefault(kind, DraftCounts())
        counts.drafted, counts.accepted = counts.drafted + drafted, counts.accepted + accepted

    def note(self, seconds: float, rows: int, prompt_rows: int, tokens: int, turns: int, turn_tokens: int) -> None:
        """Records a sweep, and how many tokens came of it: in all, and of the sequences that were past their prompts.

        turns: how many of those there were.
        """
        self.turns, self.turn_tokens = self.turns + turns, self.turn_tokens + turn_tokens
        self.sweeps, self.rows, self.prompt_rows = self.sweeps + 1, self.rows + rows, self.prompt_rows + prompt_rows
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens
        self._decoded = not prompt_rows
        if self._decoded:
            self.decode_seconds, self.decode_tokens = self.decode_seconds + seconds, self.decode_tokens + tokens

    def unsaid(self) -> None:
        """Takes back a token of the last sweep, which came after the end of its text."""
        self.tokens, self.turn_tokens = self.tokens - 1, self.turn_tokens - 1
        self.decode_tokens -= self._decoded

    def since(self, before: "Throughput") -> "Throughput":
        """What has been done since it was a copy of this."""
        new = Throughput()
        for name, value in vars(self).items():
            if name not in ("drafts", "_decoded"):
                setattr(new, name, value - getattr(before, name))
        for kind, counts in self.drafts.items():
            old = before.drafts.get(kind, DraftCounts())
            new.draft(kind, counts.drafted - old.drafted, counts.accepted - old.accepted)
        return new

    def to_json(self) -> dict:
        """Its part of the report; times are in seconds, rates in tokens per second."""
        return {
            "cached_tokens": self.cached_tokens,
            "sweeps": self.sweeps,
            "rows": self.rows,
            "prompt_rows": self.prompt_rows,
            "turns": self.turns,
            "tokens_per_sweep": _rate(self.turn_tokens, self.turns),
            "drafted": sum(counts.drafted for counts in self.drafts.values()),
            "accepted": sum(counts.accepted for counts in self.drafts.values()),
            "drafts": {kind: vars(counts) for kind, counts in self.drafts.items()},
            "generate_s": round(self.seconds, 6),
            "tokens_per_s": _rate(self.tokens, self.seconds),
            "decode_s": round(self.decode_seconds, 6),
            "decode_tokens": self.decode_tokens,
            "decode_tokens_per_s": _rate(self.decode_tokens, self.decode_seconds),
        }


def _rate(count: int, whole: float) -> float | None:
    return round(count / whole, 3) if whole else None


@dataclass(frozen=True)
class RankUsage:
    """What one rank has used so far.

    swept_bytes: weights used in one sweep. streamed_bytes: those of them that are not pinned.
    draft_bytes: weights of the rank's part of a model that drafts.
    window_blocks, window_bytes: the most blocks that are not pinned, and bytes of them, in memory at once.
    experts: how often they were in memory; None if the model has none.
    kv_bytes: that keys and values may take. kernels: what multiplies with its matrices. seconds: by activity.
    """

    rank: int
    host: str
    threads: int
    kernels: tuple[str, ...]
    peak_rss_bytes: int
    budget_bytes: int | None
    kv_bytes: int
    slab_bytes: int
    swept_bytes: int
    streamed_bytes: int
    draft_bytes: int
    bytes_fetched: int
    experts: ExpertUsage | None
    pinned_blocks: int
    window_blocks: int
    window_bytes: int
    seconds: Mapping[str, float]

    def to_json(self) -> dict:
        """This rank's entry in the report."""
        line = {key: value for key, value in vars(self).items() if key not in _NOT_REPORTED}
        if self.experts:
            line["experts"] = self.experts.to_json()
        return line | {activity: round(self.seconds.get(activity, 0.0), 6) for activity in ACTIVITIES}


_NOT_REPORTED = ("swept_bytes", "streamed_bytes", "seconds", "experts")


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run. allreduce_choice: what ``auto`` chose, and why; None for any other allreduce.

    kv: the dtype of keys and values. sequences: the most at once.
    """

    world_size: int
    allreduce: str
    allreduce_choice: dict | None
    wire: str
    overlap: bool
    dtype: str
    activations: str
    kv: str
    sequences: int


def run_report(
    model: str,
    settings: RunSettings,
    latencies: Latencies,
    throughput: Throughput,
    load: float,
    ranks: Iterable[Mapping],
) -> dict:
    """The whole report, fit for JSON; times are in seconds, and ``ttft_s`` is the median over the requests.

    Those of a request begin when its turn comes.
    load: from the program's start until it is ready to generate. ranks: their entries, in rank order.
    """
    return {
        "model": model,
        **vars(settings),
        "prompts": throughput.requests,
        "new_tokens": throughput.tokens,
        **throughput.to_json(),
        "ttft_s": _median(latencies.first.values),
        "tpot_s": {"median": _median(latencies.later.values), "p90": _p90(latencies.later.values)},
        "load_s": round(load, 6),
        "ranks": list(ranks),
    }


def summary(report: dict) -> str:
    """The report in one line."""
    peak = max(rank["peak_rss_bytes"] for rank in report["ranks"])
    counts = {"token": report["new_tokens"], "request": report["prompts"], "rank": report["world_size"]}
    tokens, requests, ranks = (f"{count} {noun}{'s' if count != 1 else ''}" for noun, count in counts.items())
    ttft = f"TTFT {_show(report['ttft_s'])}"
    tpot = f"{_show(report['tpot_s']['median'])} per output token"
    if report["accepted"]:
        tpot += f" ({report['tokens_per_sweep']:.1f} of them a sweep)"
    return f"{tokens} in {requests} on {ranks}: {ttft}, {tpot}, peak memory {format_size(peak)} per rank"


def rank_trace(usage: RankUsage, trace: Trace) -> dict:
    """This rank's part of the trace."""
    own = {"spans": trace.spans, "memory": trace.memory, "sweeps": trace.sweeps, "fetched": trace.fetched}
    return {"host": usage.host, "budget": usage.budget_bytes, **own}


def whole_trace(ranks: Iterable[dict]) -> dict:
    """All ranks' spans as one Chrome trace-event object."""
    events = [event for rank, own in enumerate(ranks) for event in trace_events(rank, own)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def check_outputs(options: MachineOptions) -> None:
    """On rank 0, before any work: raises UserError if the report or the trace could not be written at the end."""
    for path in filter(None, (options.report, options.trace)):
        check_writable(path)


def write_outputs(options: MachineOptions, report: dict, traces: Iterable[dict]) -> None:
    """On rank 0: writes the report and the trace, if they were asked for."""
    if options.report:
        replace_file(options.report, json.dumps(report, indent=2) + "\n")
    if options.trace:
        replace_file(options.trace, json.dumps(whole_trace(traces)) + "\n")


def _median(values: list[float]) -> float | None:
    return round(median(values), 6) if values else None


def _p90(values: list[float]) -> float | None:
    if len(values) < 2:
        return _median(values)
    return round(quantiles(values, n=10, method="inclusive")[-1], 6)


def _show(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.{1 if seconds < 0.01 else 0}f} ms"
