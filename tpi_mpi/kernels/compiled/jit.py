"""Functions that Numba compiles, and where it keeps what it compiled.

Compiled code is kept on disk, in a directory for this version of the kernels' source and this version of Numba; Numba
itself tells CPUs apart. NUMBA_CACHE_DIR, if set, is where; else the user's cache directory, or a temporary one.
"""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numba
import xxhash
from numba import types

KERNEL = types.void(types.int64, types.int64, types.int64)
"""The signature of what the pool runs: the first item of the work, the end of it, the address of the arguments."""


def compiled(function: Callable) -> Callable:
    """A function that is compiled when it is first called, and runs without the interpreter's lock."""
    _prepare()
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


def reordering(function: Callable) -> Callable:
    """The same, with sums in whatever order is fast: always the same one, but not that of the source."""
    _prepare()
    return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function)


def kernel_address(function: Callable) -> int:
    """Compiles what the pool is to run, and returns its address; it must stay referenced. See :data:`KERNEL`."""
    _prepare()
    made = numba.cfunc(KERNEL, nopython=True, cache=True, error_model="numpy")(function)
    _KEPT.append(made)
    return made.address


_KEPT: list = []


@cache
def _prepare() -> None:
    """Points Numba to the directory, before it compiles anything."""
    if not os.environ.get("NUMBA_CACHE_DIR"):
        numba.config.CACHE_DIR = str(cache_directory())  # read by Numba when a function is decorated


def cache_directory() -> Path:
    """A directory that this user may write to and that others cannot have prepared."""
    version = f"{source_version()}-numba-{numba.__version__}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for parent in (home, Path(tempfile.gettempdir()) / f"tpi_mpi-{os.getuid()}"):
        directory = parent / "tpi_mpi" / "kernels" / version
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(directory, os.W_OK) and parent.stat().st_uid == os.getuid():
            return directory
    return Path(tempfile.mkdtemp(prefix="tpi_mpi-kernels-"))


def is_empty() -> bool:
    """Whether nothing has been compiled yet, so that it will take some seconds."""
    return not any(Path(numba.config.CACHE_DIR or cache_directory()).rglob("*.nbc"))


def source_version() -> str:
    """A digest of the kernels' source: Numba sees changes only in the file that it compiles from."""
    digest = xxhash.xxh3_64()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
