"""Where compiled code is kept."""

import os
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tpi_mpi.kernels.compiled import jit
from tpi_mpi.kernels.compiled.jit import cache_directory, named, source_version


@pytest.fixture
def caches(monkeypatch, tmp_path) -> Path:
    """The user's cache directory; another one for what is temporary, and a mask that lets a group write."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = os.umask(0o002)
    yield tmp_path / "caches"
    os.umask(before)


def temporary(caches: Path) -> Path:
    return caches.parent / "temporary" / f"tpi_mpi-{os.getuid()}" / "tpi_mpi" / "kernels"


def test_compiled_code_lies_in_the_users_own_directories(caches):
    directory = cache_directory()
    assert directory.parent == caches / "tpi_mpi" / "kernels"
    assert source_version() in directory.name
    for own in (directory, *list(directory.parents)[:3]):
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert cache_directory() == directory


@pytest.mark.parametrize("level", [".", "tpi_mpi", "tpi_mpi/kernels"])
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_replaced(caches, level):
    (caches / level).mkdir(parents=True)
    (caches / level).chmod(0o500)
    assert cache_directory().parent == temporary(caches)


@pytest.mark.parametrize("level", ["tpi_mpi", "tpi_mpi/kernels"])
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_that_others_may_write_to_is_replaced(caches, level, mode):
    (caches / level).mkdir(parents=True)
    (caches / level).chmod(mode)
    assert cache_directory().parent == temporary(caches)


def test_a_link_and_a_file_are_replaced(caches, tmp_path):
    caches.mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (caches / "tpi_mpi").symlink_to(tmp_path / "elsewhere")
    assert cache_directory().parent == temporary(caches)
    temporary(caches).parent.rename(tmp_path / "moved")
    temporary(caches).parent.touch()
    assert cache_directory().parent == caches.parent / "temporary"


def test_a_directory_of_somebody_else_is_replaced(caches, monkeypatch):
    cache_directory()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cache_directory().parent == caches.parent / "temporary"


def test_a_user_without_a_home_gets_a_temporary_directory(caches, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_directory().parent == temporary(caches)


def test_a_directory_of_the_users_choice_has_a_version_too(caches, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(caches))
    directory = cache_directory()
    assert directory.parent == caches
    assert source_version() in directory.name


def test_every_cpu_has_its_own_directory(caches, monkeypatch):
    own = cache_directory()
    monkeypatch.setattr(jit, "compiled_for", lambda: ("x86_64-unknown-linux-gnu", "haswell", ""))
    assert cache_directory() != own


def test_a_name_is_one_word():
    assert named(lambda: None, "product integer - 32").__qualname__ == "product_integer_32"


def test_the_second_process_compiles_nothing(tmp_path):
    script = (
        "import numpy as np\n"
        "from tpi_mpi.kernels.compiled.multiplier import Multiplier\n"
        "from tpi_mpi.kernels.formats import Format, Tiled\n"
        "from operands import random_operand\n"
        "with Multiplier(2, 2) as multiply:\n"
        "    for format in (Format.of('int4'), Format.of('int8', 64), Format.of('float32')):\n"
        "        multiply(np.ones((1, 64), np.float32), random_operand(Tiled(format, 16, 64)), 'decode')\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)
        kept.append({path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*.nb?")})
    assert kept[0] == kept[1]
    versions = Counter(path.name.rsplit(".", 2)[0] for path in kept[0] if path.suffix == ".nbc")
    assert len([name for name in versions if name.startswith("product.product_")]) == 3
    assert set(versions.values()) == {1}  # numbers of several could be mixed up by two processes at once
