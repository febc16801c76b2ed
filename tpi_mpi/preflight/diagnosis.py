"""What is wrong with machines that are to work together: what each rank found, and what differs between ranks."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from tpi_mpi.common.units import MIB, show_seconds

# How many times worse than the rest a link or a disk has to be to count as a fault.
_MUCH = 3
# Seconds by which a latency has to be longer as well.
_LATENCY_SLACK = 0.3e-3


def problems(ranks: Sequence[dict]) -> list[dict]:
    """A sentence for each problem, with its rank and host, in rank order. ranks: their reports (:mod:`.rank_check`)."""
    found = [*_own(ranks), *_versions(ranks), *_links(ranks), *_disks(ranks)]
    found.sort(key=lambda problem: problem[0])
    return [{"rank": rank, "host": ranks[rank]["host"], "message": message} for rank, message in found]


def notes(ranks: Sequence[dict]) -> list[str]:
    """One sentence for whatever is not wrong but costs time."""
    return [*_shared_hosts(ranks), *_confined(ranks)]


def _own(ranks: Sequence[dict]) -> Iterator[tuple[int, str]]:
    for rank in ranks:
        yield from ((rank["rank"], message) for message in rank["problems"])


def _versions(ranks: Sequence[dict]) -> Iterator[tuple[int, str]]:
    expected = ranks[0]["versions"]
    for rank in ranks[1:]:
        for name, version in rank["versions"].items():
            if _matters(name, version) != _matters(name, expected[name]):
                yield rank["rank"], f"{name} is {version}, rank 0's is {expected[name]}; install the same on both"


def _matters(name: str, version: str) -> str:
    """The part of a version that has to be the same: patch releases of Python, numpy and Numba may differ."""
    return ".".join(version.split(".")[:2]) if name in ("python", "numpy", "numba") else version


def _links(ranks: Sequence[dict]) -> Iterator[tuple[int, str]]:
    """Compares the ranks on other hosts than rank 0's: those on its own host need no link."""
    far = {rank["rank"]: rank["link"] for rank in ranks[1:] if rank["host"] != ranks[0]["host"]}
    for rank, link in far.items():
        rest = [other for number, other in far.items() if number != rank]
        if not rest:
            return
        latency = median(other["latency_s"] for other in rest)
        if link["latency_s"] > max(_MUCH * latency, latency + _LATENCY_SLACK):
            own = show_seconds(link["latency_s"])
            yield rank, f"a message to rank 0 takes {own}, the others' {show_seconds(latency)}; check its link"
        bandwidth = median(other["bandwidth"] for other in rest)
        if link["bandwidth"] * _MUCH < bandwidth:
            own, others = (f"{value / 1e6:.1f} MB/s" for value in (link["bandwidth"], bandwidth))
            yield rank, f"its link to rank 0 carries {own}, the others' {others}; check it"


def _disks(ranks: Sequence[dict]) -> Iterator[tuple[int, str]]:
    """Compares host by host, because the ranks of one host share its disk."""
    rates, first = defaultdict(float), {}
    for rank in ranks:
        if rank["rates"]["read"]:
            rates[rank["host"]] += rank["rates"]["read"]
            first.setdefault(rank["host"], rank["rank"])
    for host, rate in rates.items():
        rest = [other for name, other in rates.items() if name != host]
        if rest and rate * _MUCH < median(rest):
            own, others = (f"{value / MIB:.0f} MiB/s" for value in (rate, median(rest)))
            yield (
                first[host],
                f"its disk reads {own}, the others' {others}; give the rank a smaller shard (--ratios-from)",
            )


def _shared_hosts(ranks: Sequence[dict]) -> Iterator[str]:
    by_host = defaultdict(list)
    for rank in ranks:
        by_host[rank["host"]].append(str(rank["rank"]))
    for host, numbers in by_host.items():
        if len(by_host) > 1 and len(numbers) > 1:
            yield f"ranks {', '.join(numbers)} are all on {host} and share its memory, its cores and its disk"


def _confined(ranks: Sequence[dict]) -> Iterator[str]:
    first = next((rank for rank in ranks if rank["confined"]), None)
    if first:
        yield (
            f"mpirun binds rank {first['rank']} on {first['host']} to fewer cores than its share; add --bind-to none"
        )
