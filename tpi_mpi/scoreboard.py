"""A benchmark's report as a table for people."""

from collections.abc import Iterator, Sequence

from tpi_mpi.table import columns, show_rate, show_seconds
from tpi_mpi.units import format_size


def scoreboard(report: dict) -> Iterator[str]:
    """The lines of the table."""
    yield (
        f"{report['model']}, {report['dtype']}, {report['world_size']} ranks, allreduce {report['allreduce']}, "
        f"a prompt of {report['prompt_tokens']} tokens, then one token at a time"
    )
    yield from columns([_RANK_HEADINGS, *map(_rank, report["ranks"])])
    yield ""
    measured = {"ttft": report["ttft_s"], "tpot": report["tpot_s"]["median"]}
    yield from columns([_TIME_HEADINGS, *(_times(report, name, seconds) for name, seconds in measured.items())])


_RANK_HEADINGS = (
    *("rank", "host", "threads", "disk", "memory", "product", "pinned", "streamed", "fetched"),
    *("stall", "compute", "allreduce", "peak", "budget"),
)
_TIME_HEADINGS = ("", "measured", "floor", "ratio", "reading", "computing", "allreduces", "memory alone")


def _rank(rank: dict) -> Sequence[str]:
    rates, token = rank["rates"], rank["per_token"]
    return (
        str(rank["rank"]),
        rank["host"],
        str(rank["threads"]),
        *(show_rate(rates[name]) for name in ("read", "memory", "vector")),
        format_size(rates["weights"] - rates["streamed"]),
        format_size(rates["streamed"]),
        format_size(token["bytes_fetched"]),
        *(show_seconds(token[f"{activity}_s"]) for activity in ("stall", "compute", "allreduce")),
        format_size(rank["peak_rss_bytes"]),
        format_size(rank["budget_bytes"]) if rank["budget_bytes"] else "-",
    )


def _times(report: dict, name: str, measured: float) -> Sequence[str]:
    floor = report["floor"][name]
    parts = ("total_s", "read_s", "compute_s", "allreduce_s", "memory_s")
    total, *others = (show_seconds(floor[part]) for part in parts)
    return name.upper(), show_seconds(measured), total, f"{report['ratio'][name]:.2f}", *others
