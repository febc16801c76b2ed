"""Reports as tables that people read, with aligned columns."""

from collections.abc import Iterator, Sequence

from tpi_mpi.common.units import format_size, show_rate, show_seconds

_BENCH_RANK = (
    *("rank", "host", "threads", "disk", "memory", "GEMV", "pinned", "streamed", "fetched"),
    *("stall", "compute", "allreduce", "peak", "budget"),
)
_BENCH_TIME = ("", "measured", "lower bound", "ratio", "reading", "computing", "allreduces", "memory alone")
_CHECK_RANK = (
    *("rank", "host", "tpi_mpi", "python", "torch", "mpi4py", "MPI", "threads", "slab", "shard", "free", "budget"),
    *("disk", "memory", "GEMV", "latency", "bandwidth"),
)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))


def bench_table(report: dict) -> Iterator[str]:
    """The report of tpi_mpi.bench, as lines."""
    yield (
        f"{report['model']}, {report['dtype']}, {report['world_size']} ranks, allreduce {report['allreduce']}, "
        f"a prompt of {report['prompt_tokens']} tokens, then one token at a time"
    )
    yield from aligned([_BENCH_RANK, *map(_bench_rank, report["ranks"])])
    yield ""
    measured = {"ttft": report["ttft_s"], "tpot": report["tpot_s"]["median"]}
    yield from aligned([_BENCH_TIME, *(_bench_times(report, name, seconds) for name, seconds in measured.items())])


def _bench_rank(rank: dict) -> Sequence[str]:
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


def _bench_times(report: dict, name: str, measured: float) -> Sequence[str]:
    bound = report["lower_bound"][name]
    parts = ("total_s", "read_s", "compute_s", "allreduce_s", "memory_s")
    total, *others = (show_seconds(bound[part]) for part in parts)
    return name.upper(), show_seconds(measured), total, f"{report['ratio'][name]:.2f}", *others


def check_table(report: dict) -> Iterator[str]:
    """The report of tpi_mpi.check, as lines."""
    yield f"{report['model']}, {report['dtype']}, {report['world_size']} ranks, allreduce {report['allreduce']}"
    yield from aligned([_CHECK_RANK, *map(_check_rank, report["ranks"])])
    yield ""
    yield _expected(report)


def _check_rank(rank: dict) -> Sequence[str]:
    rates, link = rank["rates"], rank["link"]
    return (
        str(rank["rank"]),
        rank["host"],
        *rank["versions"].values(),
        f"{rank['threads']} of {rank['cores']}",
        rank["slab"]["state"],
        *(format_size(rank[f"{name}_bytes"]) for name in ("shard", "free", "budget")),
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
