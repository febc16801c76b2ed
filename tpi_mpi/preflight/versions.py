"""Versions of the software that all ranks should have in common."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import xxhash

import tpi_mpi
from tpi_mpi.comm.world import mpi_library


def versions() -> dict[str, str]:
    """The versions that this process uses, by name."""
    return {
        "tpi_mpi": f"{tpi_mpi.__version__}+{_source_digest()}",
        "python": platform.python_version(),
        "numpy": _installed("numpy"),
        "numba": _installed("numba"),
        "mpi4py": _installed("mpi4py"),
        "MPI": mpi_library(),
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _source_digest() -> str:
    """The first eight digits of XXH3 of the program's source: tells copies apart that are between two releases."""
    digest = xxhash.xxh3_64()
    for path in sorted(Path(tpi_mpi.__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:8]
