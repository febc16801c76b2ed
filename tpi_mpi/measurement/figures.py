"""Pictures: of a trace, one sweep, then memory and experts all along; of a report, where time and memory went."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.common.trace import ACTIVITIES
from tpi_mpi.common.units import GIB
from tpi_mpi.measurement.experts.picture import draw_experts

_COLOURS = {"fetch": "#4477aa", "stall": "#cc3311", "compute": "#228833", "allreduce": "#ccbb44", "draft": "#aa3377"}

Event = Mapping[str, object]


def draw(content: JsonObject, sweep: int | None = None) -> Figure:
    """The figure of a trace (see :func:`trace_figure`) or of a report. Raises UserError if the content is neither."""
    try:
        if "traceEvents" in content.values:
            return trace_figure(content.values["traceEvents"], sweep)
        return report_figure(content.values)
    except (KeyError, TypeError):
        raise UserError(f"{content.origin} is neither a trace nor a report of this program") from None


def trace_figure(events: Sequence[Event], sweep: int | None = None) -> Figure:
    """One sweep's timeline above the whole run: the rows of its sweeps, memory and, if there are experts, their hits.

    sweep: its number, from 1; by default the last complete one. Raises UserError if the trace has no such sweep.
    """
    experts = _samples(events, "experts")
    figure = _figure(12, 14 if experts else 9)
    heights = (3, 2, 2, *((3, 1.2) if experts else ()))
    above, middle, below, *last = figure.subplots(len(heights), 1, height_ratios=heights)
    _draw_sweep(above, events, *_sweep(events, sweep))
    _draw_rows(middle, _samples(events, "rows"))
    _draw_memory(below, _samples(events, "memory"))
    if experts:
        draw_experts(*last, experts, [event["ts"] for event in _samples(events, "rows")])
    return figure


def report_figure(report: Mapping[str, object]) -> Figure:
    """Where each rank's seconds went, and its peak memory beside the budget."""
    figure = _figure(10, 4)
    left, right = figure.subplots(1, 2)
    ranks = report["ranks"]
    names, bottom = [f"rank {rank['rank']}" for rank in ranks], [0.0] * len(ranks)
    for activity in ("stall", "compute", "allreduce", "draft"):
        seconds = [rank.get(activity, 0.0) for rank in ranks]  # older reports know no drafts
        left.bar(names, seconds, bottom=bottom, color=_COLOURS[activity], label=activity)
        bottom = [a + b for a, b in zip(bottom, seconds, strict=True)]
    left.set_ylabel("seconds")
    left.legend()
    right.bar(names, [rank["peak_rss_bytes"] / GIB for rank in ranks], color=_COLOURS["fetch"], label="peak")
    _draw_budget(right, ranks[0].get("budget_bytes"))
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes the figure. Raises UserError if the file's extension is no known format."""
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:
        raise UserError(f"{path} cannot be drawn: {error}") from None


def _figure(width: float, height: float) -> Figure:
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _sweep(events: Sequence[Event], number: int | None) -> tuple[float, float]:
    """A sweep's start and end, in microseconds: from its first block to that of the next sweep."""
    computed = [event for event in _spans(events, 0) if event["cat"] == "compute"]
    first = computed[0]["name"] if computed else None  # the block that begins every sweep
    # a prompt may pass through it as several chunks, the first of which begins the sweep
    pairs = zip([None, *computed], computed, strict=False)
    starts = [now["ts"] for before, now in pairs if now["name"] == first != (before and before["name"])]
    count = len(starts) - 1
    chosen = count if number is None else number
    if not 1 <= chosen <= count:
        raise UserError(f"sweep {number or 1} is not in the trace, which has {max(count, 0)} complete ones")
    return starts[chosen - 1], starts[chosen]


def _spans(events: Sequence[Event], rank: int) -> list[Event]:
    return sorted((event for event in events if event["ph"] == "X" and event["pid"] == rank), key=lambda e: e["ts"])


def _samples(events: Sequence[Event], name: str) -> list[Event]:
    return [event for event in events if event["ph"] == "C" and event["name"] == name]


def _draw_rows(axes, sweeps: Sequence[Event]) -> None:
    """A bar for each sweep, as wide as its time, of the rows of tokens and of prompts."""
    starts, widths = ([event[key] / 1e6 for event in sweeps] for key in ("ts", "dur"))
    bottom = [0] * len(sweeps)
    for key, colour in (("tokens", "compute"), ("prompts", "fetch")):
        rows = [event["args"][key] for event in sweeps]
        axes.bar(starts, rows, widths, bottom, align="edge", color=_COLOURS[colour], edgecolor="white", label=key)
        bottom = [a + b for a, b in zip(bottom, rows, strict=True)]
    axes.set_ylabel("rows of each sweep")
    axes.legend(loc="upper right")


def _draw_sweep(axes, events: Sequence[Event], start: float, stop: float) -> None:
    ranks = sorted({event["pid"] for event in events})
    labels = []
    for row, (rank, activity) in enumerate((rank, activity) for rank in ranks for activity in ACTIVITIES):
        bars = [
            ((event["ts"] - start) / 1e3, event["dur"] / 1e3)
            for event in _spans(events, rank)
            if event["cat"] == activity and event["ts"] < stop and event["ts"] + event["dur"] > start
        ]
        axes.broken_barh(bars, (row + 0.1, 0.8), color=_COLOURS[activity], edgecolor="white", linewidth=0.3)
        labels.append(f"rank {rank} {activity}")
    axes.set_yticks([row + 0.5 for row in range(len(labels))], labels)
    axes.set_ylim(len(labels), 0)
    axes.set_xlim(0, (stop - start) / 1e3)
    axes.set_xlabel("milliseconds of one sweep")


def _draw_memory(axes, samples: Sequence[Event]) -> None:
    for rank in sorted({event["pid"] for event in samples}):
        own = [event for event in samples if event["pid"] == rank]
        sizes = [event["args"]["resident"] / GIB for event in own]
        axes.plot([event["ts"] / 1e6 for event in own], sizes, label=f"rank {rank}", linewidth=1)
    axes.set_xlabel("seconds of the run")
    _draw_budget(axes, samples[0]["args"].get("budget") if samples else None)


def _draw_budget(axes, budget: int | None) -> None:
    if budget:
        axes.axhline(budget / GIB, color="black", linestyle="--", label="budget")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("resident GiB")
    axes.legend(loc="lower right")
