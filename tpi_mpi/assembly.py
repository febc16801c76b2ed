"""The ranks' slabs, opened together: all of one split, each rank its own."""

from pathlib import Path

from tpi_mpi.errors import UserError
from tpi_mpi.manifest import Manifest
from tpi_mpi.parallel import World
from tpi_mpi.slabs import Slab, slab_path


def open_slab(world: World, directory: Path) -> Slab:
    """This rank's slab. Stops all ranks unless each has its own slab of one split, made for so many ranks."""
    with world.agreed():
        Manifest.load(directory).check_size(world.size)
        slab = Slab.open(slab_path(directory, world.rank))
        if (slab.rank, slab.partition.size) != (world.rank, world.size):
            raise UserError(
                f"slab {slab.path} was split for rank {slab.rank} of {slab.partition.size}, not for rank "
                f"{world.rank} of {world.size}; copy this rank's own slab here"
            )
    world.same(str(slab.path), slab.identity())
    return slab


def open_slabs(directory: Path) -> list[Slab]:
    """All slabs of a directory. Raises UserError unless they are those of one split, each in its place."""
    manifest = Manifest.load(directory)
    slabs = [Slab.open(slab_path(directory, rank)) for rank in range(manifest.ranks)]
    for rank, slab in enumerate(slabs):
        if slab.rank != rank or slab.partition.size != len(slabs):
            raise UserError(f"slab {slab.path} is rank {slab.rank} of {slab.partition.size}; copy the right one")
        if slab.identity() != slabs[0].identity():
            raise UserError(f"slab {slab.path} is of another split than {slabs[0].path}; copy it again or split again")
    return slabs
