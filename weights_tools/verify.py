"""Checks slabs: every checksum, and with the checkpoint that what was cut can be put together again.

    python -m weights_tools.verify SLABS [--checkpoint CHECKPOINT]

Reads every byte of the slabs (and of the checkpoint) once. Exit status 0 means that all is as it was written.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
import xxhash

from tpi_mpi import command
from tpi_mpi.arguments import Parser
from tpi_mpi.assembly import open_slabs
from tpi_mpi.blocks import EMBEDDING, TensorSpec, blocks_of
from tpi_mpi.errors import TpiError, UserError, say
from tpi_mpi.mapping import SlabFile
from tpi_mpi.slabs import Slab
from weights_tools.checkpoint import Checkpoint
from weights_tools.progress import bytes_bar


def verify_parser() -> Parser:
    parser = Parser(prog="python -m weights_tools.verify", description="Checks that slabs are what was written.")
    parser.add_argument("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    parser.add_argument("--checkpoint", type=Path, help="compare with the checkpoint, bit for bit")
    return parser


def check_blocks(slabs: Sequence[Slab]) -> None:
    """Raises TpiError for the first block, or row of the embedding, that differs from its checksum."""
    total = sum(slab.nbytes for slab in slabs)
    with bytes_bar(total, "checksums") as bar, ExitStack() as stack:
        for slab in slabs:
            file = SlabFile(slab.path)
            stack.callback(file.close)
            for extent in {extent.offset: extent for extent in slab.blocks.values()}.values():
                block = file.map(extent, verify=True)
                block.populate()
                if extent.name == EMBEDDING:
                    _check_rows(slab, block.tensors["embed_tokens.weight"])
                block.release()
                bar.update(extent.nbytes)


def _check_rows(slab: Slab, matrix: torch.Tensor) -> None:
    for row, checksum in zip(matrix.view(torch.uint8).numpy(), slab.row_checksums, strict=True):
        if xxhash.xxh3_64_intdigest(row) != int(checksum):
            raise TpiError(f"slab {slab.path} has a wrong checksum for a row of its embedding; split again")


class Rejoin:
    """Puts the ranks' shares of a tensor together again."""

    def __init__(self, slabs: Sequence[Slab], stack: ExitStack):
        self._slabs = slabs
        self._files = [SlabFile(slab.path) for slab in slabs]
        for file in self._files:
            stack.callback(file.close)

    def shares(self, block: str, spec: TensorSpec) -> list[tuple[tuple[int, int], torch.Tensor]]:
        """Each holding rank's range of the cut axis, and its share."""
        found = []
        for slab, file in zip(self._slabs, self._files, strict=True):
            share = spec.share(slab.partition, slab.rank)
            if share is not None:
                found.append((share, file.map(slab.blocks[block]).tensors[spec.name]))
        return found

    @staticmethod
    def differs(spec: TensorSpec, shares: list, piece: torch.Tensor, first: int) -> bool:
        """Whether any rank's share of the rows from ``first`` on is not bit for bit the piece's, or none covers one."""
        covered = torch.zeros(spec.shape[spec.axis], dtype=torch.bool)
        for (start, stop), share in shares:
            covered[start:stop] = True
            if spec.axis == 1:
                own, theirs = share[first : first + len(piece)], piece[:, start:stop]
            else:
                low, high = max(start, first), min(stop, first + len(piece))
                if low >= high:
                    continue
                own, theirs = share[low - start : high - start], piece[low - first : high - first]
            if not torch.equal(_bits(own), _bits(theirs.to(own.dtype))):
                return True
        return not bool(covered.all())


def compare(slabs: Sequence[Slab], checkpoint: Checkpoint) -> None:
    """Raises TpiError, naming the tensor, for the first that cannot be put together again bit for bit."""
    if checkpoint.config != slabs[0].config:
        raise UserError(f"the slabs were not split from {checkpoint.directory}: its config.json differs")
    blocks = blocks_of(slabs[0].config, slabs[0].partition)
    extents = [extent for slab in slabs for extent in slab.blocks.values()]
    total = sum(tensor.nbytes for extent in extents for tensor in extent.tensors)
    with bytes_bar(total, "rejoined") as bar, ExitStack() as stack:
        rejoin = Rejoin(slabs, stack)
        for block in blocks:
            for spec in block.tensors:
                shares, first = rejoin.shares(block.name, spec), 0
                for piece in checkpoint.pieces(spec.source, *spec.rows):
                    if Rejoin.differs(spec, shares, piece, first):
                        raise TpiError(f"tensor {spec.source} differs between the slabs and {checkpoint.directory}")
                    first += len(piece)
                bar.update(sum(share.nbytes for _, share in shares))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def verify(arguments: Sequence[str] | None = None) -> None:
    options = verify_parser().parse_args(arguments)
    slabs = open_slabs(options.slabs)
    check_blocks(slabs)
    if options.checkpoint:
        compare(slabs, Checkpoint(options.checkpoint))
    say(f"{len(slabs)} slabs are as they were written{' and equal the checkpoint' if options.checkpoint else ''}")


if __name__ == "__main__":
    sys.exit(command.run(verify))
