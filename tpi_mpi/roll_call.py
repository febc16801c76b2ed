"""A check's report as a table for people."""

from collections.abc import Iterator, Sequence

from tpi_mpi.table import columns, show_rate, show_seconds
from tpi_mpi.units import format_size

_HEADINGS = (
    *("rank", "host", "tpi_mpi", "python", "torch", "mpi4py", "MPI", "threads", "slab", "share", "free", "budget"),
    *("disk", "memory", "product", "latency", "bandwidth"),
)


def roll_call(report: dict) -> Iterator[str]:
    """The lines of the table."""
    yield f"{report['model']}, {report['dtype']}, {report['world_size']} ranks, allreduce {report['allreduce']}"
    yield from columns([_HEADINGS, *map(_rank, report["ranks"])])
    yield ""
    yield _expected(report)


def _rank(rank: dict) -> Sequence[str]:
    rates, link = rank["rates"], rank["link"]
    return (
        str(rank["rank"]),
        rank["host"],
        *rank["versions"].values(),
        f"{rank['threads']} of {rank['processors']}",
        rank["slab"]["state"],
        *(format_size(rank[f"{name}_bytes"]) for name in ("share", "free", "budget")),
        *(show_rate(rates[name]) if rates[name] else "-" for name in ("read", "memory", "vector")),
        show_seconds(link["latency_s"]) if link else "-",
        f"{link['bandwidth'] / 1e6:.1f} MB/s" if link else "-",
    )


def _expected(report: dict) -> str:
    tokens, expected = report["work"]["prompt_tokens"], report["expected"]
    if not expected:
        return "these ranks cannot run it"
    ttft, tpot = (show_seconds(expected[name]) for name in ("ttft_s", "tpot_s"))
    return f"expected: {ttft} to the first token of a prompt of {tokens} tokens, then {tpot} for each"
