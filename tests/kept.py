"""Directories of compiled code, for tests of what happens where some of it is missing."""

import shutil

from tpi_mpi.kernels.compiled.library import cache_directory


def kept_code(directory, monkeypatch) -> None:
    """Has compiled code kept in another directory, where there is already all but products and states."""
    before = cache_directory()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(directory))
    after = cache_directory()
    for path in before.glob("*.o"):
        if not path.name.startswith(("product_", "states_")):
            shutil.copy(path, after)
