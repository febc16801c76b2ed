"""The tensors of one module in a checkpoint, and which of them have been used."""

from collections.abc import Mapping
from math import prod

from tpi_mpi.common.errors import UserError
from weights_tools.quantized.sharing import Sharing
from weights_tools.tensors.stored import Stored

FLOATS = ("F16", "BF16", "F32")
"""The dtypes of scales."""


class Parts:
    """Every tensor whose name is the module's and one of the ``suffixes``.

    Whatever is asked for counts as used.

    tensors: of the checkpoint, by the names that the model has for them.
    """

    def __init__(self, module: str, suffixes: tuple[str, ...], tensors: Mapping[str, Stored]):
        self.module = module
        names = {suffix: f"{module}.{suffix}" for suffix in suffixes}
        self._present = {suffix: tensors[name] for suffix, name in names.items() if name in tensors}
        self._used: dict[str, None] = {}

    def __contains__(self, suffix: str) -> bool:
        return suffix in self._present

    @property
    def quantized(self) -> bool:
        """Whether there is anything but a weight in numbers."""
        return any(suffix != "weight" or part.dtype not in FLOATS for suffix, part in self._present.items())

    def dtype(self, suffix: str) -> str | None:
        """Of one of the tensors; None if there is none."""
        return self._present[suffix].dtype if suffix in self._present else None

    @property
    def first(self) -> str:
        """The name of one of the tensors."""
        return next(iter(self._present.values())).name

    @property
    def used(self) -> tuple[str, ...]:
        """The names of the tensors that are used."""
        return tuple(f"{self.module}.{suffix}" for suffix in self._used)

    def need(self, suffix: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> Stored:
        """Raises UserError if there is no such tensor, or another dtype or shape than config.json promises."""
        stored = self._take(suffix, dtypes)
        if stored.shape != shape:
            raise UserError(f"tensor {stored.name} has shape {stored.shape}, but config.json promises {shape}")
        return stored

    def scales(self, suffix: str, sharing: Sharing, shape: tuple[int, int]) -> Stored:
        """The scales of a matrix, in a grid as the weights share them; axes of length 1 may be left out."""
        stored, grid = self._take(suffix, FLOATS), sharing.grid(shape)
        if prod(stored.shape) != prod(grid) or stored.shape[: len(grid)] not in (grid, grid[:1], ()):
            raise UserError(f"tensor {stored.name} has shape {stored.shape}, but config.json promises {grid}")
        return stored

    def _take(self, suffix: str, dtypes: tuple[str, ...]) -> Stored:
        if suffix not in self._present:
            raise UserError(
                f"the checkpoint lacks the tensor {self.module}.{suffix}, without which {self.first} means nothing; "
                "download it again"
            )
        stored = self._present[suffix]
        self._used[suffix] = None
        if stored.dtype not in dtypes:
            raise UserError(
                f"tensor {stored.name} has dtype {stored.dtype}; the supported ones are {', '.join(dtypes)}"
            )
        return stored
