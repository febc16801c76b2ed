"""Functions that Numba compiles, and where it keeps what it compiled.

Compiled code is kept on disk, in a directory for this version of the kernels' source, this version of Numba and these
features of the CPU: under NUMBA_CACHE_DIR, if that is set; else in the user's cache directory, or a temporary one.

Numba numbers what it compiles of one function in an index file that it changes without a lock. So that two processes
at once cannot mix up their numbers, no function whose code is kept has more than one version: functions made in several
versions get names of their own, and what only compiled functions call is not kept by itself.
"""

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numba
import xxhash
from numba import types
from numba.core import event

from tpi_mpi.kernels.cpu import compiled_for

KERNEL = types.void(types.int64, types.int64, types.int64)
"""The signature of what the pool runs: the first item of the work, the end of it, the address of the arguments."""


def compiled(function: Callable) -> Callable:
    """A function that is compiled when it is first called, and runs without the interpreter's lock.

    It is always called with arguments of the same types.
    """
    _prepare()
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


def helper(function: Callable) -> Callable:
    """A function that compiled functions call, with arguments of any types; kept as a part of theirs."""
    return numba.njit(error_model="numpy")(function)


def reordering(function: Callable) -> Callable:
    """The same, with sums in whatever order is fast: always the same one, but not that of the source."""
    return numba.njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function)


def kernel_address(function: Callable) -> int:
    """Compiles what the pool is to run, and returns its address; it must stay referenced. See :data:`KERNEL`."""
    _prepare()
    made = numba.cfunc(KERNEL, nopython=True, cache=True, error_model="numpy")(function)
    _KEPT.append(made)
    return made.address


def named(function: Callable, name: str) -> Callable:
    """The same function under a name for this version of it: what is kept of it lies in a file of that name."""
    function.__name__ = function.__qualname__ = re.sub(r"\W+", "_", name).strip("_")
    return function


@contextmanager
def announced(announce: Callable[[], None]) -> Iterator[None]:
    """Inside the with-block, ``announce`` is called before the first function is compiled, if any is not on disk."""
    with event.install_listener("numba:compile", _First(announce)):
        yield


class _First(event.Listener):
    """Calls a function when the first of some events begins. For a kernel, it is when a helper of it is compiled."""

    def __init__(self, act: Callable[[], None]):
        self._act: Callable[[], None] | None = act

    def on_start(self, event: event.Event) -> None:
        act, self._act = self._act, None
        if act:
            act()

    def on_end(self, event: event.Event) -> None:
        """That it is over is of no interest."""


_KEPT: list = []


@cache
def _prepare() -> None:
    """Points Numba to the directory, before it compiles anything."""
    numba.config.CACHE_DIR = str(cache_directory())  # read by Numba when a function is decorated


def cache_directory() -> Path:
    """The directory that NUMBA_CACHE_DIR chooses, or one that only this user can have written to."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen) / f"tpi_mpi-{_version()}"
    names = "tpi_mpi", "kernels", _version()
    with suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        caches = _caches_of_user()
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
        if caches.stat().st_uid == os.getuid():
            return _private(caches, *names)
    with suppress(OSError):
        return _private(Path(tempfile.gettempdir()), f"tpi_mpi-{os.getuid()}", *names)
    return Path(tempfile.mkdtemp(prefix="tpi_mpi-kernels-"))


def _caches_of_user() -> Path:
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".cache"


def _private(parent: Path, *names: str) -> Path:
    """A directory inside a directory, and so on, each of which only this user may write to.

    Code from it will be run. Raises OSError if it cannot be made, or if others may write to what there is.
    """
    directory = parent
    for name in names:
        directory /= name
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)  # level by level, since parents=True would give the parents any mode
        found = directory.lstat()
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if not own or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or not os.access(directory, os.W_OK):
            raise PermissionError(f"{directory} is not this user's alone")
    return directory


def _version() -> str:
    """What compiled code depends on."""
    features = xxhash.xxh3_64_hexdigest(" ".join(compiled_for()).encode())
    return f"{source_version()}-numba-{numba.__version__}-{features}"


def source_version() -> str:
    """A digest of the kernels' source: Numba sees changes only in the file that it compiles from."""
    digest = xxhash.xxh3_64()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
