"""A benchmark's report as a table for people."""

from collections.abc import Iterator, Sequence

from tpi_mpi.units import format_size


def scoreboard(report: dict) -> Iterator[str]:
    """The lines of the table."""
    yield (
        f"{report['model']}, {report['dtype']}, {report['world_size']} ranks, allreduce {report['allreduce']}, "
        f"a prompt of {report['prompt_tokens']} tokens, then one token at a time"
    )
    yield from _columns([_RANK_HEADINGS, *map(_rank, report["ranks"])])
    yield ""
    measured = {"ttft": report["ttft_s"], "tpot": report["tpot_s"]["median"]}
    yield from _columns([_TIME_HEADINGS, *(_times(report, name, seconds) for name, seconds in measured.items())])


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
        *(f"{rates[name] / 1e9:.2f} GB/s" for name in ("read", "memory", "vector")),
        format_size(rates["weights"] - rates["streamed"]),
        format_size(rates["streamed"]),
        format_size(token["bytes_fetched"]),
        *(_seconds(token[f"{activity}_s"]) for activity in ("stall", "compute", "allreduce")),
        format_size(rank["peak_rss_bytes"]),
        format_size(rank["budget_bytes"]) if rank["budget_bytes"] else "-",
    )


def _times(report: dict, name: str, measured: float) -> Sequence[str]:
    floor = report["floor"][name]
    parts = ("total_s", "read_s", "compute_s", "allreduce_s", "memory_s")
    total, *others = (_seconds(floor[part]) for part in parts)
    return name.upper(), _seconds(measured), total, f"{report['ratio'][name]:.2f}", *others


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
