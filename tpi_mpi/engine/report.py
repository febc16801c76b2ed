"""What a run took: measured on every rank, assembled on rank 0."""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median, quantiles

from tpi_mpi.common.files import check_writable, replace_file
from tpi_mpi.common.options import MachineOptions
from tpi_mpi.common.trace import ACTIVITIES, Trace, trace_events
from tpi_mpi.common.units import format_size
from tpi_mpi.engine.request import Token


class Latencies:
    """Seconds that the tokens of a run took: ``first``, each request's first token; ``later``, all others."""

    def __init__(self):
        self.first: list[float] = []
        self.later: list[float] = []

    def add(self, seconds: float, first: bool) -> None:
        """Records the time of one token. first: whether it is its request's first."""
        (self.first if first else self.later).append(seconds)

    def watch(self, tokens: Generator[Token, None, None]) -> Generator[Token, None, None]:
        """Passes on the tokens of one request, and records their times. Closes the tokens when it is closed."""
        times = self.first
        with closing(tokens):
            for token in tokens:
                times.append(token.seconds)
                times = self.later
                yield token


@dataclass(frozen=True)
class RankUsage:
    """What one rank has used so far.

    swept_bytes: weights used in one sweep. streamed_bytes: those of them that are not pinned.
    window_blocks, window_bytes: the most blocks that are not pinned, and bytes of them, in memory at once.
    kernels: what multiplies with its matrices. seconds: by activity.
    """

    rank: int
    host: str
    threads: int
    kernels: Sequence[str]
    peak_rss_bytes: int
    budget_bytes: int | None
    slab_bytes: int
    swept_bytes: int
    streamed_bytes: int
    bytes_fetched: int
    pinned_blocks: int
    window_blocks: int
    window_bytes: int
    seconds: Mapping[str, float]

    def to_json(self) -> dict:
        """This rank's entry in the report."""
        line = {key: value for key, value in vars(self).items() if key not in _NOT_REPORTED}
        return line | {activity: round(self.seconds.get(activity, 0.0), 6) for activity in ACTIVITIES}


_NOT_REPORTED = ("swept_bytes", "streamed_bytes", "seconds")


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run. allreduce_choice: what ``auto`` chose, and why; None for any other allreduce."""

    world_size: int
    allreduce: str
    allreduce_choice: dict | None
    wire: str
    overlap: bool
    dtype: str
    activations: str


def run_report(model: str, settings: RunSettings, latencies: Latencies, load: float, ranks: Sequence[Mapping]) -> dict:
    """The whole report, fit for JSON; times are in seconds, and ``ttft_s`` is the median over the requests.

    load: from the program's start until it is ready to generate. ranks: their entries, in rank order.
    """
    return {
        "model": model,
        **vars(settings),
        "prompts": len(latencies.first),
        "new_tokens": len(latencies.first) + len(latencies.later),
        "ttft_s": _median(latencies.first),
        "tpot_s": {"median": _median(latencies.later), "p90": _p90(latencies.later)},
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
    return f"{tokens} in {requests} on {ranks}: {ttft}, {tpot}, peak memory {format_size(peak)} per rank"


def rank_trace(usage: RankUsage, trace: Trace) -> dict:
    """This rank's part of the trace."""
    return {"host": usage.host, "budget": usage.budget_bytes, "spans": trace.spans, "memory": trace.memory}


def whole_trace(ranks: Sequence[dict]) -> dict:
    """All ranks' spans as one Chrome trace-event object."""
    events = [event for rank, own in enumerate(ranks) for event in trace_events(rank, own)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def check_outputs(options: MachineOptions) -> None:
    """On rank 0, before any work: raises UserError if the report or the trace could not be written at the end."""
    for path in filter(None, (options.report, options.trace)):
        check_writable(path)


def write_outputs(options: MachineOptions, report: dict, traces: Sequence[dict]) -> None:
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
