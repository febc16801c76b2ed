"""manifest.json: what a directory of slabs holds. It is written last, so its presence means the split is whole."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tpi_mpi.errors import UserError
from tpi_mpi.files import replace_file

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """
    model: the checkpoint's name. ranks: how many slabs there are.
    slab_bytes: size of each slab's file, in rank order.
    """

    model: str
    model_type: str
    dtype: str
    source_digest: str
    ranks: int
    slab_bytes: tuple[int, ...]

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Raises UserError where the directory is not one that weights_tools.split completed."""
        path = directory / MANIFEST
        if not directory.is_dir():
            raise UserError(f"slab directory {directory} does not exist; make it with weights_tools.split")
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**value, "slab_bytes": tuple(value["slab_bytes"])})
        except FileNotFoundError:
            raise UserError(
                f"{directory} has no {MANIFEST}; it holds no slabs, or their split was not completed: split again"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} cannot be read ({error}); copy it again or split again") from None

    def save(self, directory: Path) -> None:
        replace_file(directory / MANIFEST, json.dumps(asdict(self), indent=2) + "\n")

    def check_size(self, size: int) -> None:
        """Raises UserError unless there are as many slabs as ranks."""
        if self.ranks != size:
            raise UserError(
                f"the slabs were split for {self.ranks} ranks, but {size} were started; "
                f"use mpirun -np {self.ranks}, or split again with --ranks {size}"
            )
