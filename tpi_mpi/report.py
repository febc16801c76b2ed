"""What a run took: measured on every rank, put together on rank 0."""

import json
from collections.abc import Iterable, Iterator, Sequence
from statistics import median, quantiles

import torch

from tpi_mpi.engine import Engine, Token
from tpi_mpi.files import check_writable, replace_file
from tpi_mpi.memory import peak_rss
from tpi_mpi.options import MachineOptions
from tpi_mpi.timeline import ACTIVITIES, trace_events
from tpi_mpi.units import format_size


class Latencies:
    """Times of the tokens of a run: each text's first, and all others."""

    def __init__(self):
        self.first: list[float] = []
        self.later: list[float] = []

    def watch(self, tokens: Iterable[Token]) -> Iterator[Token]:
        """The tokens of one text, their times taken down as they pass."""
        times = self.first
        for token in tokens:
            times.append(token.seconds)
            times = self.later
            yield token


def rank_report(engine: Engine) -> dict:
    """This rank's line of the report."""
    return {
        "rank": engine.world.rank,
        "host": engine.world.host,
        "threads": torch.get_num_threads(),
        "peak_rss_bytes": peak_rss(),
        "budget_bytes": engine.budget,
        "slab_bytes": engine.slab.nbytes,
        "bytes_fetched": engine.window.bytes_fetched,
        "pinned_blocks": len(engine.plan.pinned),
        "window_blocks": _window_blocks(engine),
        "window_bytes": engine.plan.capacity,
        **{activity: round(engine.timeline.seconds[activity], 6) for activity in ACTIVITIES},
    }


def _window_blocks(engine: Engine) -> int:
    """Blocks of which something can be in the window at once."""
    sizes = [nbytes for name, nbytes in engine.blocks.items() if name not in engine.plan.pinned]
    return (engine.plan.depth or -(-engine.plan.capacity // max(sizes))) if sizes else 0


def run_report(
    engine: Engine, model: str, options: MachineOptions, latencies: Latencies, load: float, ranks: Sequence[dict]
) -> dict:
    """The whole report. Times are in seconds, ``ttft_s`` the median over the texts."""
    return {
        "model": model,
        "world_size": engine.world.size,
        "allreduce": options.allreduce,
        "allreduce_choice": engine.allreduce.choice(),
        "wire": options.wire,
        "overlap": engine.overlap,
        "dtype": engine.slab.dtype,
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
    counts = {"token": report["new_tokens"], "text": report["prompts"], "rank": report["world_size"]}
    tokens, texts, ranks = (f"{count} {noun}{'s' if count != 1 else ''}" for noun, count in counts.items())
    ttft = f"TTFT {_show(report['ttft_s'])}"
    tpot = f"{_show(report['tpot_s']['median'])} per output token"
    return f"{tokens} in {texts} on {ranks}: {ttft}, {tpot}, peak memory {format_size(peak)} per rank"


def rank_trace(engine: Engine) -> dict:
    """What this rank adds to the trace."""
    timeline = engine.timeline
    return {
        "host": engine.world.host,
        "budget": engine.budget,
        "spans": timeline.spans,
        "memory": timeline.memory,
    }


def trace(ranks: Sequence[dict]) -> dict:
    """All ranks' spans as one Chrome trace-event object."""
    events = [event for rank, own in enumerate(ranks) for event in trace_events(rank, own)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def check_outputs(options: MachineOptions) -> None:
    """On rank 0, before any work: raises UserError where the report or the trace could not be written at its end."""
    for path in filter(None, (options.report, options.trace)):
        check_writable(path)


def write_outputs(options: MachineOptions, report: dict, traces: Sequence[dict]) -> None:
    """On rank 0: writes the files that were asked for."""
    if options.report:
        replace_file(options.report, json.dumps(report, indent=2) + "\n")
    if options.trace:
        replace_file(options.trace, json.dumps(trace(traces)) + "\n")


def _median(values: list[float]) -> float | None:
    return round(median(values), 6) if values else None


def _p90(values: list[float]) -> float | None:
    if len(values) < 2:
        return _median(values)
    return round(quantiles(values, n=10, method="inclusive")[-1], 6)


def _show(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
