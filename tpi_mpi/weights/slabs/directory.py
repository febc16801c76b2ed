"""A directory of slabs: its manifest, and its slabs, which must belong together."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.files import replace_file
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab

MANIFEST = "manifest.json"
DRAFT = "draft"
"""Where a directory has a smaller copy of its model, if it has one: slabs that are cut alike."""


@dataclass(frozen=True)
class Manifest:
    """manifest.json: what the directory holds. It is written last, so its presence means that the split is complete.

    model: the checkpoint's name. ranks: number of slabs.
    slab_bytes: size of each slab's file, in rank order.
    ignored_keys: keys of config.json that are not understood, and that the user asked to ignore.
    """

    model: str
    model_type: str
    dtype: str
    source_digest: str
    ranks: int
    slab_bytes: tuple[int, ...]
    ignored_keys: tuple[str, ...] = ()

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Reads a directory's manifest. Raises UserError unless weights_tools.split completed the directory."""
        path = directory / MANIFEST
        if not directory.is_dir():
            raise UserError(f"slab directory {directory} does not exist; make it with weights_tools.split")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            lists = {key: tuple(value[key]) for key in ("slab_bytes", "ignored_keys") if key in value}
            return cls(**{**value, **lists})
        except FileNotFoundError:
            raise UserError(
                f"{directory} has no {MANIFEST}; it holds no slabs, or their split was not completed: split again"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} cannot be read ({error}); copy it again or split again") from None

    def save(self, directory: Path) -> None:
        """Writes the manifest into a directory. Raises UserError if that fails."""
        values = {key: value for key, value in asdict(self).items() if key != "ignored_keys" or value}
        replace_file(directory / MANIFEST, json.dumps(values, indent=2) + "\n")

    def warnings(self) -> Iterator[str]:
        """What the user should be warned about in every run."""
        for key in self.ignored_keys:
            yield f"warning: these slabs were split with --ignore-key {key}, whatever that key of config.json means"

    def check_size(self, size: int) -> None:
        """Raises UserError unless there are as many slabs as ranks."""
        if self.ranks != size:
            raise UserError(
                f"the slabs were split for {self.ranks} ranks, but {size} were started; "
                f"use mpirun -np {self.ranks}, or split again with --ranks {size}"
            )


def slab_path(directory: Path, rank: int) -> Path:
    return directory / f"rank{rank:04d}.h5"


def open_slabs(directory: Path) -> list[Slab]:
    """All slabs of a directory, in rank order. Raises UserError unless they form one split, each in its place."""
    manifest = Manifest.load(directory)
    slabs = [own_slab(directory, rank, manifest.ranks) for rank in range(manifest.ranks)]
    for slab in slabs:
        if slab.identity() != slabs[0].identity():
            raise UserError(
                f"slab {slab.path} is from a different split than {slabs[0].path}; copy it again or split again"
            )
    return slabs


def has_draft(directory: Path) -> bool:
    """Whether there is a draft in a directory of slabs, complete or not."""
    draft = directory / DRAFT
    return (draft / MANIFEST).is_file() or any(draft.glob("*rank[0-9]*.h5*"))


def open_draft(directory: Path, slab: Slab) -> list[Slab]:
    """All slabs of the draft in a directory of slabs, of which ``slab`` is one.

    Raises UserError unless they form one split, and are the draft of that slab.
    """
    draft = open_slabs(directory / DRAFT)
    check_draft(draft[0], slab)
    return draft


def check_draft(draft: Slab, slab: Slab) -> None:
    """Raises UserError unless a draft's slab was made from the same weights as another slab, and cut alike."""
    own, exact = draft.identity(), slab.identity()
    for what in own:
        if what != "dtype" and own[what] != exact[what]:
            raise UserError(
                f"the draft's slab {draft.path} has another {what} than {slab.path}; split again with --force"
            )


def own_slab(directory: Path, rank: int, size: int) -> Slab:
    """The slab of one rank. Raises UserError if it is missing, damaged, or made for another rank or world size."""
    Manifest.load(directory).check_size(size)
    slab = read_slab(slab_path(directory, rank))
    if (slab.rank, slab.partition.size) != (rank, size):
        raise UserError(
            f"slab {slab.path} was split for rank {slab.rank} of {slab.partition.size}, not for rank "
            f"{rank} of {size}; copy this rank's own slab here"
        )
    return slab
