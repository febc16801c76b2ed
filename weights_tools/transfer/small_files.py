"""The small files beside slabs, on their way to every rank's directory."""

from pathlib import Path

import xxhash

from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.world import ROOT, World
from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.weights.disk_threads import DiskThreads
from tpi_mpi.weights.slabs.directory import MANIFEST
from weights_tools.common.target_directory import read_small_files, write_small_files


def give_small_files(world: World, slabs: Path, target: Path, reading: DiskThreads, writing: DiskThreads) -> None:
    """Writes the small files of rank 0's ``slabs``, and no others, to every rank's ``target``; the manifest last."""
    files: dict[str, bytes] = {}
    with world.agreed():
        if world.is_root:
            files = reading.run(_read, slabs)
    files = _broadcast(world, files)
    with world.agreed():  # ranks may share a directory
        writing.run(write_small_files, target, files, f".{world.rank}")


def _read(slabs: Path) -> dict[str, bytes]:
    """The small files of a directory of slabs, by name. Raises UserError if one cannot be read."""
    try:
        manifest = (slabs / MANIFEST).read_bytes()
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}; split again") from None
    return {**read_small_files(slabs), MANIFEST: manifest}


def _broadcast(world: World, files: dict[str, bytes]) -> dict[str, bytes]:
    """Rank 0's files, on every rank."""
    content = bytearray().join(files.values())
    digest = xxhash.xxh3_64_hexdigest(content)
    sizes, digest = world.broadcast([[(name, len(data)) for name, data in files.items()], digest])
    if not world.is_root:
        content = bytearray(sum(size for _, size in sizes))
    wait([world.comm.Ibcast(content, ROOT)])
    if xxhash.xxh3_64_hexdigest(content) != digest:
        raise TpiError("a message from rank 0 was altered on its way; scatter again (what has arrived is kept)")
    received, start = {}, 0
    for name, size in sizes:
        received[name] = bytes(content[start : start + size])
        start += size
    return received
