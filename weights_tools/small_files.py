"""What a run needs besides the slabs: the manifest, config.json, the tokenizer. Rank 0's, on every machine."""

from collections.abc import Iterable
from pathlib import Path

import xxhash

from tpi_mpi.errors import TpiError, UserError
from tpi_mpi.files import replace_file
from tpi_mpi.manifest import MANIFEST
from tpi_mpi.parallel import ROOT, World
from tpi_mpi.waiting import wait
from weights_tools.split import SMALL_FILES


def give_small_files(world: World, source: Path, target: Path) -> None:
    """Gives every rank's directory those of rank 0's directory ``source``, and no others; the manifest last.

    Called by all ranks together, some of which may share a directory. Stops all of them where one cannot write.
    """
    files: dict[str, bytes] = {}
    with world.agreed():
        if world.is_root:
            files = _read(source)
    files = _broadcast(world, files)
    with world.agreed():
        _remove(target / name for name in SMALL_FILES if name not in files)
        for name, content in files.items():
            if not _holds(target / name, content):
                replace_file(target / name, content, writer=f".{world.rank}")


def _read(source: Path) -> dict[str, bytes]:
    try:
        present = [name for name in SMALL_FILES if (source / name).is_file()]
        return {name: (source / name).read_bytes() for name in (*present, MANIFEST)}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}; split again") from None


def _broadcast(world: World, files: dict[str, bytes]) -> dict[str, bytes]:
    content = bytearray().join(files.values())
    digest = xxhash.xxh3_64_hexdigest(content)
    sizes, digest = world.broadcast([[(name, len(data)) for name, data in files.items()], digest])
    if not world.is_root:
        content = bytearray(sum(size for _, size in sizes))
    wait([world.comm.Ibcast(content, ROOT)])
    if xxhash.xxh3_64_hexdigest(content) != digest:
        raise TpiError("a message of rank 0 was altered on its way; scatter again, what has arrived stays")
    received, start = {}, 0
    for name, size in sizes:
        received[name] = bytes(content[start : start + size])
        start += size
    return received


def _remove(paths: Iterable[Path]) -> None:
    """A chat template of another model, for one, would be taken for this one's."""
    try:
        for path in paths:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be removed: {error.strerror}; name another directory") from None


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
