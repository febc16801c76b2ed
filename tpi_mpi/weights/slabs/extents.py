"""Where things lie in a slab."""

from dataclasses import dataclass

from tpi_mpi.kernels.formats import Layout

PAGE = 4096
"""Every block, and every part of a tensor outside experts, begins at a multiple of this many bytes."""

NO_CHECKSUM = "0" * 16


@dataclass(frozen=True)
class TensorExtent:
    """Where a tensor lies in the slab: where each part of its layout begins, in bytes from the start of the file."""

    name: str
    layout: Layout
    offsets: tuple[int, ...]

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """First byte of each part, and the byte after its last."""
        parts = zip(self.offsets, self.layout.parts, strict=True)
        return tuple((offset, offset + part.nbytes) for offset, part in parts)

    @property
    def stop(self) -> int:
        return self.ranges[-1][1]


@dataclass(frozen=True)
class BlockExtent:
    """Where a block lies in the slab: a single byte range, with zeros between the parts of its tensors.

    checksum: XXH3 (64 bits, hexadecimal) of the whole range. padding: bytes of zeros after the last part.
    """

    name: str
    tensors: tuple[TensorExtent, ...]
    checksum: str = NO_CHECKSUM
    padding: int = 0

    @property
    def offset(self) -> int:
        return self.tensors[0].offsets[0]

    @property
    def stop(self) -> int:
        return self.tensors[-1].stop + self.padding

    @property
    def nbytes(self) -> int:
        return self.stop - self.offset

    def tensor(self, name: str) -> TensorExtent:
        return next(tensor for tensor in self.tensors if tensor.name == name)
