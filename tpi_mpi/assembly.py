"""The ranks' slabs, opened together: all of one split, each rank its own."""

from pathlib import Path

from tpi_mpi.errors import UserError
from tpi_mpi.manifest import Manifest
from tpi_mpi.parallel import World
from tpi_mpi.slabs import Slab, slab_path


def open_slab(world: World, directory: Path) -> Slab:
    """This rank's slab. Stops all ranks unless each has its own slab of one split, made for so many ranks."""
    with world.agreed():
        slab = own_slab(directory, world.rank, world.size)
    world.same(str(slab.path), slab.identity())
    return slab


def open_slabs(directory: Path) -> list[Slab]:
    """All slabs of a directory. Raises UserError unless they are those of one split, each in its place."""
    manifest = Manifest.load(directory)
    slabs = [own_slab(directory, rank, manifest.ranks) for rank in range(manifest.ranks)]
    for slab in slabs:
        if slab.identity() != slabs[0].identity():
            raise UserError(f"slab {slab.path} is of another split than {slabs[0].path}; copy it again or split again")
    return slabs


def own_slab(directory: Path, rank: int, size: int) -> Slab:
    """The slab of one rank. Raises UserError where it is not there, is damaged, or another rank's or split's."""
    Manifest.load(directory).check_size(size)
    slab = Slab.open(slab_path(directory, rank))
    if (slab.rank, slab.partition.size) != (rank, size):
        raise UserError(
            f"slab {slab.path} was split for rank {slab.rank} of {slab.partition.size}, not for rank "
            f"{rank} of {size}; copy this rank's own slab here"
        )
    return slab
