"""Compiled functions on the disk, and in memory.

Each is kept as a file of machine code, in a directory for this version of the kernels' source, of the compilers, and
these features of the CPU: under NUMBA_CACHE_DIR, if that is set; else in the user's cache directory, or a temporary
one. Those that are kept are loaded by LLVM alone: Numba, which takes as much memory again, is imported only to compile.
"""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import xxhash
from llvmlite import binding

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.compiled.compiling import compile_all
from tpi_mpi.kernels.cpu import compiled_for
from tpi_mpi.kernels.records.symbols import NEVER_CALLED

# How long the directory of a version is kept that nobody uses.
_KEPT_SECONDS = 30 * 24 * 3600


class Source(Protocol):
    """What the library knows of a function; see :class:`tpi_mpi.kernels.compiled.functions.Function`."""

    module: str
    name: str
    settings: tuple[str | int, ...]
    arguments: int
    key: str


class Library:
    """Compiled functions in memory; what is not there yet is loaded from a directory, or compiled and kept there."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._loaded: dict[str, int] = {}
        self._announce: Callable[[], None] | None = None

    def address(self, function: Source) -> int:
        """Where a function is."""
        if function.key not in self._loaded:
            self.load([function])
        return self._loaded[function.key]

    def load(self, functions: Iterable[Source]) -> None:
        """Loads functions; those that are not kept are compiled, several at a time."""
        wanted = {function.key: function for function in functions if function.key not in self._loaded}
        found = {key: _read(self._path(key)) for key in wanted}
        missing = [wanted[key] for key, code in found.items() if code is None]
        if missing:
            announce, self._announce = self._announce, None
            if announce:
                announce()
            found |= compile_all(missing)
            for function in missing:
                _write(self._path(function.key), found[function.key])
        self._loaded |= {key: self._placed(key, code) for key, code in found.items()}

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.o"

    @contextmanager
    def announced(self, announce: Callable[[], None]) -> Iterator[None]:
        """Inside the with-block, ``announce`` is called before the first function is compiled, if any has to be."""
        self._announce = announce
        try:
            yield
        finally:
            self._announce = None

    def _placed(self, symbol: str, code: bytes) -> int:
        """The address of a symbol of an object file, once its code is in memory."""
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        return self._engine.get_function_address(symbol)

    @cached_property
    def _engine(self) -> binding.ExecutionEngine:
        """What owns the code."""
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_triple(compiled_for()[0]).create_target_machine(opt=0, jit=True)
        return binding.create_mcjit_compiler(binding.parse_assembly(_stubs()), machine)


@cache
def library() -> Library:
    """That of this process."""
    return Library(cache_directory())


def _stubs() -> str:
    """A module with what is never called."""
    functions = (f"define void @{name}() {{\n call void @abort()\n unreachable\n}}" for name in NEVER_CALLED)
    return "\n".join(["declare void @abort()", *functions])


def _read(path: Path) -> bytes | None:
    """The code in a file; None if there is none, or if it is not whole."""
    try:
        digest, code = path.read_bytes().split(b"\n", 1)
    except (OSError, ValueError):
        return None
    return code if digest == _digest(code) else None


def _write(path: Path, code: bytes) -> None:
    """Keeps code in a file; a disk without room for it only costs the time to compile it again."""
    with suppress(OSError), tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(_digest(code) + b"\n" + code)
            file.close()
            os.replace(file.name, path)
        except OSError:
            os.unlink(file.name)


def _digest(code: bytes) -> bytes:
    return xxhash.xxh3_64_hexdigest(code).encode()


def cache_directory() -> Path:
    """A directory that only this user can have written to: inside NUMBA_CACHE_DIR, if that is set.

    Raises UserError if there can be none inside NUMBA_CACHE_DIR.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        try:
            Path(chosen).mkdir(parents=True, exist_ok=True)
            return _private(Path(chosen), f"tpi_mpi-{_version()}")
        except OSError as error:
            raise UserError(f"NUMBA_CACHE_DIR is {chosen}, where no code can be kept: {error}") from None
    names = "tpi_mpi", "kernels", _version()
    with suppress(OSError, RuntimeError):  # RuntimeError: the user has no home
        caches = _caches_of_user()
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
        if caches.stat().st_uid == os.getuid():
            return _current(_private(caches, *names))
    with suppress(OSError):
        return _private(Path(tempfile.gettempdir()), f"tpi_mpi-{os.getuid()}", *names)
    return Path(tempfile.mkdtemp(prefix="tpi_mpi-kernels-"))


def _current(directory: Path) -> Path:
    """Marks a version's directory as used; removes those of other versions that have not been for a long time."""
    os.utime(directory)
    for other in directory.parent.iterdir():
        if other.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
    return directory


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
    """What compiled code depends on: source, compilers, features of the CPU, and settings of Numba."""
    names = (name for name in os.environ if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR")
    settings = (f"{name}={os.environ[name]}" for name in sorted(names))
    compilers = (version(package) for package in ("numba", "llvmlite"))
    words = " ".join([*compiled_for(), *compilers, *settings])
    return f"{source_version()}-{xxhash.xxh3_64_hexdigest(words.encode())}"


def source_version() -> str:
    """A digest of the kernels' source."""
    digest = xxhash.xxh3_64()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
