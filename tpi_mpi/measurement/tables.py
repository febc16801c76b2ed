"""Reports as tables that people read, with aligned columns."""

from collections.abc import Iterator, Sequence

from tpi_mpi.common.units import format_size, show_rate, show_seconds

_BENCH_RANK = (
    *("rank", "host", "threads", "disk", "memory", "GEMV", "pinned", "streamed", "fetched"),
    *("stall", "compute", "allreduce", "peak", "budget"),
)
_BENCH_KERNEL = ("rank", "format", "memory", "1 row", *("2", "4", "8", "16"), "1 row/memory", "64 rows", "256")
_BENCH_EXPERTS = (
    *("rank", "experts", "kept", "of", "prompt wants", "a layer", "hits"),
    *("token wants", "a layer", "hits", "reads", "guessed rightly"),
)
_BENCH_TIME = ("", "measured", "lower bound", "ratio", "reading", "computing", "allreduces", "memory alone")
_CHECK_RANK = (
    *("rank", "host", "tpi_mpi", "python", "numpy", "numba", "mpi4py", "MPI", "threads", "slab", "shard", "free"),
    *("budget", "disk", "memory", "GEMV", "latency", "bandwidth"),
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
    yield from aligned([_BENCH_RANK, *(_bench_rank(rank, report["main_format"]) for rank in report["ranks"])])
    yield ""
    if any("experts" in rank for rank in report["ranks"]):
        yield from aligned([_BENCH_EXPERTS, *map(_bench_experts, report["ranks"])])
        yield ""
    yield from _kernels(report["kernels"])
    yield ""
    measured = {"ttft": report["ttft_s"], "tpot": report["tpot_s"]["median"]}
    yield from aligned([_BENCH_TIME, *(_bench_times(report, name, seconds) for name, seconds in measured.items())])
    if "with_drafts" in report:
        yield ""
        yield _with_drafts(report["with_drafts"])


def _with_drafts(own: dict) -> str:
    """The same tokens, with drafts."""
    kinds = [f"{counts['accepted']} of {counts['drafted']} by {kind}" for kind, counts in own["drafts"].items()]
    seconds = own["decode_s"] / max(1, own["decode_tokens"])
    right = f"right were {', '.join(kinds)}" if kinds else "none was worth it"
    return f"with drafts: {show_seconds(seconds)} a token, {own['tokens_per_sweep']:.2f} tokens a sweep; {right}"


def _kernels(entries: Sequence[dict]) -> Iterator[str]:
    """A line for each rank and format, and then the kernels that were chosen."""
    yield "GB/s of weights that are multiplied with 1 to 16 rows; billions of operations per second with 64 and 256"
    yield from aligned([_BENCH_KERNEL, *map(_bench_kernel, entries)])
    yield from dict.fromkeys(kernel for entry in entries for kernel in entry["kernels"])


def _bench_kernel(entry: dict) -> Sequence[str]:
    decode, prompt = entry["decode"], entry["prompt"]
    return (
        str(entry["rank"]),
        entry["format"],
        *(f"{rate / 1e9:.2f}" for rate in (entry["memory"], *decode.values())),
        f"{decode['1'] / entry['memory']:.2f}",
        *(f"{prompt[rows] / 1e9:.1f}" for rows in ("64", "256")),
    )


def _bench_rank(rank: dict, main: str) -> Sequence[str]:
    """main: the format whose GEMV rate is shown."""
    rates, token = rank["rates"], rank["per_token"]
    return (
        str(rank["rank"]),
        rank["host"],
        str(rank["threads"]),
        *(show_rate(rate) for rate in (rates["read"], rates["memory"], rates["products"][main]["gemv"])),
        format_size(rates["weights"] - rates["streamed"]),
        format_size(rates["streamed"]),
        format_size(token["bytes_fetched"]),
        *(show_seconds(token[f"{activity}_s"]) for activity in ("stall", "compute", "allreduce")),
        format_size(rank["peak_rss_bytes"]),
        format_size(rank["budget_bytes"]) if rank["budget_bytes"] else "-",
    )


def _bench_experts(rank: dict) -> Sequence[str]:
    own, prompt, token = rank["experts"], rank["experts"]["prompt"], rank["experts"]["token"]
    return (
        *(str(value) for value in (rank["rank"], own["all"], own["kept"])),
        format_size(own["size"]),
        *_bench_hits(prompt),
        *_bench_hits(token),
        format_size(token["bytes_missed"]),
        _part(token["guess_rate"]),
    )


def _bench_hits(figures: dict) -> Sequence[str]:
    return format_size(figures["bytes_wanted"]), f"{figures['per_layer']:.1f}", _part(figures["hit_rate"])


def _part(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.0%}"


def _bench_times(report: dict, name: str, measured: float) -> Sequence[str]:
    bound = report["lower_bound"][name]
    parts = ("total_s", "read_s", "compute_s", "allreduce_s", "memory_s")
    total, *others = (show_seconds(bound[part]) for part in parts)
    return name.upper(), show_seconds(measured), total, f"{report['ratio'][name]:.2f}", *others


def check_table(report: dict) -> Iterator[str]:
    """The report of tpi_mpi.check, as lines."""
    yield f"{report['model']}, {report['dtype']}, {report['world_size']} ranks, allreduce {report['allreduce']}"
    yield from aligned([_CHECK_RANK, *(_check_rank(rank, report["main_format"]) for rank in report["ranks"])])
    yield ""
    yield from (_kept(rank) for rank in report["ranks"] if rank["experts"])
    yield _expected(report)


def _check_rank(rank: dict, main: str) -> Sequence[str]:
    """main: the format whose GEMV rate is shown."""
    rates, link = rank["rates"], rank["link"]
    return (
        str(rank["rank"]),
        rank["host"],
        *rank["versions"].values(),
        f"{rank['threads']} of {rank['cores']}",
        rank["slab"]["state"],
        *(format_size(rank[f"{name}_bytes"]) for name in ("shard", "free", "budget")),
        show_rate(rates["read"]) if rates["read"] else "-",
        show_rate(rates["memory"]),
        show_rate(rates["products"][main]["gemv"]),
        show_seconds(link["latency_s"]) if link else "-",
        f"{link['bandwidth'] / 1e6:.1f} MB/s" if link else "-",
    )


def _kept(rank: dict) -> str:
    own = rank["experts"]
    return (
        f"rank {rank['rank']}: memory for {own['kept']} of {own['all']} experts of {format_size(own['size'])}; "
        f"{own['assumed_hit_rate']:.0%} of a token's are assumed to be there"
    )


def _expected(report: dict) -> str:
    tokens, expected = report["work"]["prompt_tokens"], report["expected"]
    if not expected:
        return "these ranks cannot run it"
    ttft, tpot = (show_seconds(expected[name]) for name in ("ttft_s", "tpot_s"))
    return f"expected: {ttft} to the first token of a prompt of {tokens} tokens, then {tpot} for each"
