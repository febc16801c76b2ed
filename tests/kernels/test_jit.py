"""Where compiled code is kept."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tpi_mpi.kernels.compiled.jit import cache_directory, source_version


def test_compiled_code_lies_in_the_users_own_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = cache_directory()
    assert directory.is_relative_to(tmp_path / "tpi_mpi" / "kernels")
    assert source_version() in directory.name
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_replaced(monkeypatch, tmp_path):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not cache_directory().is_relative_to(tmp_path)


def test_the_second_process_compiles_nothing(tmp_path):
    script = (
        "import numpy as np, torch\n"
        "from tpi_mpi.kernels.compiled.multiplier import Multiplier\n"
        "from tpi_mpi.kernels.formats import Format, Tiled\n"
        "from operands import random_operand\n"
        "with Multiplier(1, 2) as multiply:\n"
        "    multiply(torch.ones(1, 32), random_operand(Tiled(Format.of('int4'), 16, 32)), 'decode')\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)
        kept.append({path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*.nb?")})
    assert kept[0]
    assert kept[0] == kept[1]
