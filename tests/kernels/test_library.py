"""Where compiled code is kept."""

import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from kept import kept_code

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.compiled import library
from tpi_mpi.kernels.compiled.functions import EXECUTE, product_of
from tpi_mpi.kernels.compiled.library import Library, cache_directory, source_version
from tpi_mpi.kernels.cpu import this_cpu
from tpi_mpi.kernels.formats import Format, Tiled
from tpi_mpi.kernels.table import choose


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


def test_versions_that_nobody_uses_are_removed_in_time(caches):
    own = cache_directory()
    old, recent = own.with_name("old"), own.with_name("recent")
    for other, days in ((old, 31), (recent, 29)):
        other.mkdir()
        (other / "function.o").touch()
        os.utime(other, (0, time.time() - days * 24 * 3600))
    assert cache_directory() == own
    assert not old.exists()
    assert recent.exists()


def test_every_cpu_has_its_own_directory(caches, monkeypatch):
    own = cache_directory()
    monkeypatch.setattr(library, "compiled_for", lambda: ("x86_64-unknown-linux-gnu", "haswell", ""))
    assert cache_directory() != own


def test_no_process_needs_numba_and_the_second_compiles_nothing(tmp_path, monkeypatch):
    kept_code(tmp_path, monkeypatch)
    script = (
        "import sys\n"
        "import numpy as np\n"
        "from tpi_mpi.kernels.compiled.multiplier import Multiplier\n"
        "from tpi_mpi.kernels.formats import Format, Tiled\n"
        "from operands import random_operand\n"
        "with Multiplier(2, 2) as multiply:\n"
        "    for format in (Format.of('int4'), Format.of('int8', 64), Format.of('float32')):\n"
        "        multiply(np.ones((1, 64), np.float32), random_operand(Tiled(format, 16, 64)))\n"
        "print('numba' in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kept, imported = [], []
    for _ in range(2):
        command = [sys.executable, "-c", script]
        finished = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        imported.append(finished.stdout.strip())
        kept.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.o")})
    assert imported == ["False", "False"]
    assert kept[0] == kept[1]
    assert len([path for path in kept[0] if path.name.startswith("product_product_in")]) == 3


def function_of(directory: Path) -> int:
    return Library(directory).address(EXECUTE)


@pytest.mark.parametrize("spoil", [lambda code: code[:-1], lambda code: code[:50] + b"?" + code[51:], lambda code: b""])
def test_code_that_is_not_whole_is_compiled_again(tmp_path, spoil):
    function_of(tmp_path)
    (path,) = tmp_path.iterdir()
    code = path.read_bytes()
    path.write_bytes(spoil(code))
    assert function_of(tmp_path)
    assert library._read(path)
    assert list(tmp_path.iterdir()) == [path]


def test_versions_of_a_function_are_told_apart():
    """Numba gives them the same name; each process that compiles begins to count anew."""
    kernels = [choose(Tiled(Format.of(dtype), 16, 64), 2, this_cpu()) for dtype in ("float32", "float16")]
    addresses = [product_of(kernel).address for kernel in kernels]
    assert addresses == [library.library()._engine.get_function_address(product_of(kernel).key) for kernel in kernels]
    assert addresses[0] != addresses[1]


def test_a_directory_that_cannot_be_is_named(caches, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="where no code can be kept"):
        cache_directory()


def test_a_disk_that_keeps_nothing_costs_only_time(tmp_path):
    assert function_of(tmp_path / "missing")
