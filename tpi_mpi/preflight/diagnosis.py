"""What is wrong with machines that were looked at together: what one rank finds, and what differs between them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from tpi_mpi.common.units import MIB, show_seconds

# What is so many times worse than the rest is a fault, not a difference.
_MUCH = 3
# A latency that is longer by less than this is none either.
_LATENCY_SLACK = 0.3e-3


def problems(ranks: Sequence[dict]) -> list[dict]:
    """One sentence each, with its rank and host, in rank order. ranks: their reports (:mod:`.rank_check`)."""
    found = [*_own(ranks), *_versions(ranks), *_links(ranks), *_disks(ranks)]
    found.sort(key=lambda problem: problem[0])
    return [{"rank": rank, "host": ranks[rank]["host"], "message": message} for rank, message in found]


def notes(ranks: Sequence[dict]) -> list[str]:
    """What is not wrong, but costs time."""
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
    """The part of a version that should be the same: builds of torch and corrections of Python may differ."""
    version = version.split("+")[0] if name == "torch" else version
    return ".".join(version.split(".")[:2]) if name == "python" else version


def _links(ranks: Sequence[dict]) -> Iterator[tuple[int, str]]:
    """Of the ranks on other hosts than rank 0: the way to those on its own is no link."""
    far = {rank["rank"]: rank["link"] for rank in ranks[1:] if rank["host"] != ranks[0]["host"]}
    for rank, link in far.items():
        rest = [other for number, other in far.items() if number != rank]
        if not rest:
            return
        latency = median(other["latency_s"] for other in rest)
        if link["latency_s"] > max(_MUCH * latency, latency + _LATENCY_SLACK):
            own = show_seconds(link["latency_s"])
            yield rank, f"a message to rank 0 takes {own}, the others' {show_seconds(latency)}; look after its link"
        bandwidth = median(other["bandwidth"] for other in rest)
        if link["bandwidth"] * _MUCH < bandwidth:
            own, others = (f"{value / 1e6:.1f} MB/s" for value in (link["bandwidth"], bandwidth))
            yield rank, f"its link to rank 0 carries {own}, the others' {others}; look after it"


def _disks(ranks: Sequence[dict]) -> Iterator[tuple[int, str]]:
    """Host by host, because ranks of one share its disk."""
    rates, first = defaultdict(float), {}
    for rank in ranks:
        if rank["rates"]["read"]:
            rates[rank["host"]] += rank["rates"]["read"]
            first.setdefault(rank["host"], rank["rank"])
    for host, rate in rates.items():
        rest = [other for name, other in rates.items() if name != host]
        if rest and rate * _MUCH < median(rest):
            own, others = (f"{value / MIB:.0f} MiB/s" for value in (rate, median(rest)))
            yield first[host], f"its disk reads {own}, the others' {others}; give it a smaller shard (--ratios-from)"


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
            f"mpirun binds rank {first['rank']} on {first['host']} to fewer cores than are its share; "
            "add --bind-to none"
        )
