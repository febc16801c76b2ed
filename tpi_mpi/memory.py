"""Memory: what the machine has left, what this process took, and what a budget leaves for weights."""

import os
import resource
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.errors import UserError
from tpi_mpi.units import MIB, format_size

# Without --memory, this part of what the machine has free is left to everything else on it.
_MARGIN = 0.1
# The block in use, the next one, and one to be fetched meanwhile.
_DEFAULT_DEPTH = 3
# Arenas, thread stacks and workspaces that torch and MPI take during the first sweep.
_LIBRARIES = 48 * MIB


def peak_rss() -> int:
    """Bytes: the most memory that was resident in this process at once."""
    return _from_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def resident() -> int:
    """Bytes of memory that are resident in this process now, or the peak where the system does not tell."""
    return _from_status("VmRSS") or peak_rss()


def available() -> int:
    """Bytes that processes on this machine, or in this process's cgroup, can still take."""
    machine = _from_meminfo("MemAvailable") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min([machine, *_cgroup_rooms()])


@dataclass(frozen=True)
class Plan:
    """Which blocks stay in memory, and how many others may be there besides."""

    pinned: Set[str]
    depth: int


def plan(blocks: Mapping[str, int], budget: int, fixed: int, depth: int | None = None) -> Plan:
    """Shares out a budget: as many blocks as fit are pinned, spread over the sweep; the rest streams.

    blocks: bytes of each block, in the order of use.
    budget: peak resident bytes the process may reach. fixed: what of it everything but the weights takes.
    depth: blocks in memory besides the pinned ones, or None for the least that keeps fetching ahead of use.
    Raises UserError, with the least budget that works, where not even the window fits.
    """
    depth = depth or _DEFAULT_DEPTH
    names, sizes = list(blocks), list(blocks.values())
    for count in range(len(names), -1, -1):
        pinned = set(spread(len(names), count))
        streamed = [size for index, size in enumerate(sizes) if index not in pinned]
        window = sum(sorted(streamed)[-depth:])
        if fixed + sum(sizes[index] for index in pinned) + window <= budget:
            return Plan(frozenset(names[index] for index in pinned), depth)
    least = fixed + sum(sorted(sizes)[-depth:])
    raise UserError(
        f"a memory budget of {format_size(budget)} is too small; the least that works here is {format_size(least)}"
    )


def spread(count: int, chosen: int) -> list[int]:
    """``chosen`` of the indices below ``count``, as evenly spaced as whole numbers allow."""
    return [index for index in range(count) if (index + 1) * chosen // count > index * chosen // count]


def fixed_size(cache: int, activations: int) -> int:
    """Bytes the process will hold besides weights: what it has now, its cache, activations, libraries' buffers."""
    return resident() + cache + activations + _LIBRARIES


def default_budget(ranks_here: int) -> int:
    """Bytes a rank may take where the user names no budget: its share of what is free, with a margin."""
    return int(resident() + available() * (1 - _MARGIN) / ranks_here)


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
    """What is left under each memory limit that this process's cgroup and those above it set."""
    rooms = []
    for directory, limit_name, usage_name in _cgroup_directories():
        limit, usage = _number(directory / limit_name), _number(directory / usage_name)
        if limit is not None and usage is not None and limit < 1 << 60:
            rooms.append(max(0, limit - usage + _page_cache(directory)))
    return rooms


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


def _page_cache(directory: Path) -> int:
    """Bytes of a cgroup's memory that the kernel gives up when others need them."""
    try:
        pairs = (line.split() for line in (directory / "memory.stat").read_text().splitlines())
        return sum(int(value) for key, value in pairs if key in ("inactive_file", "active_file"))
    except OSError:
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None
