"""Memory: what the machine has left, and what this process takes. All sizes are in bytes."""

import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tpi_mpi.common.units import MIB

# Without --memory, this fraction of the machine's free memory is left for everything else on it.
_MARGIN = 0.1
# Seconds between samples of the resident size.
_SAMPLE_SECONDS = 0.02
# Room for page tables, which also count in a cgroup, and for fragmented heaps.
_GROWTH = 16 * MIB


def peak_rss() -> int:
    """The most memory, in bytes, that was ever resident in this process at once."""
    return _from_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def resident() -> int:
    """Bytes resident in this process now, or the peak if the system does not tell."""
    return _from_status("VmRSS") or peak_rss()


def available() -> int:
    """Bytes that processes on this machine, and in this process's cgroups, can still take."""
    machine = _from_meminfo("MemAvailable") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min([machine, *_cgroup_rooms()])


@contextmanager
def sampled(sample: Callable[[int], None]) -> Iterator[None]:
    """Inside the with-block, calls ``sample`` with the resident bytes at regular intervals, from another thread."""
    left = threading.Event()

    def watch() -> None:
        while not left.wait(_SAMPLE_SECONDS):
            sample(resident())

    threading.Thread(target=watch, name="memory", daemon=True).start()
    try:
        yield
    finally:
        left.set()


def taken() -> int:
    """Bytes resident in this process now, plus room for growth that nothing else accounts for."""
    return resident() + _GROWTH


def default_budget(ranks_here: int) -> int:
    """The memory budget of a rank, in bytes, without --memory: its share of what is free, less a margin.

    ranks_here: number of ranks on this machine.
    """
    share = int(resident() + available() * (1 - _MARGIN) / ranks_here)
    return min([share, *(limit for _, limit, _ in _limited_cgroups())])


def _from_status(key: str) -> int | None:
    return _kib_line(Path("/proc/self/status"), key)


def _from_meminfo(key: str) -> int | None:
    return _kib_line(Path("/proc/meminfo"), key)


def _kib_line(path: Path, key: str) -> int | None:
    """The value of a line such as ``VmHWM:   1234 kB``, in bytes."""
    try:
        for line in path.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _cgroup_rooms() -> list[int]:
    """Bytes left under each memory limit of this process's cgroup and its ancestors."""
    return [max(0, limit - usage + _reclaimable(directory)) for directory, limit, usage in _limited_cgroups()]


def _limited_cgroups() -> list[tuple[Path, int, int]]:
    """The directory, limit and usage of each cgroup, this process's or an ancestor of it, that limits memory."""
    found = []
    for directory, limit_name, usage_name in _cgroup_directories():
        limit, usage = _number(directory / limit_name), _number(directory / usage_name)
        if limit is not None and usage is not None and limit < 1 << 60:
            found.append((directory, limit, usage))
    return found


def _cgroup_directories() -> Sequence[tuple[Path, str, str]]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        inside = root / path.lstrip("/")
        found += [(directory, *names) for directory in (inside, *inside.parents) if directory.is_relative_to(root)]
    return found


def _reclaimable(directory: Path) -> int:
    """Bytes of a cgroup's page cache that no process has mapped: the kernel reclaims them on demand."""
    try:
        pairs = (line.split() for line in (directory / "memory.stat").read_text().splitlines())
        found = {key.removeprefix("total_"): int(value) for key, value in pairs}  # cgroup v1 lists its totals last
    except OSError:
        return 0
    cached = found.get("inactive_file", 0) + found.get("active_file", 0)
    return max(0, cached - found.get("mapped_file", 0) - found.get("file_mapped", 0))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
