"""What drafts in a run, as --draft says: its slab is found, and checked against the one that it drafts for."""

from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.comm.world import ROOT, World
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.machine import SELF
from tpi_mpi.tokenizer.tokenizer import Tokenizer
from tpi_mpi.weights.slabs.directory import DRAFT, Manifest, check_draft, has_draft, own_slab
from tpi_mpi.weights.slabs.slab import Slab


@dataclass(frozen=True)
class DraftSlab:
    """The slab of a model that drafts.

    shared: whether it is a copy of the model it drafts for, cut alike, which uses the same keys and values on every
    rank; else it is another model, which rank 0 runs alone.
    """

    slab: Slab
    shared: bool

    @property
    def kind(self) -> str:
        """What its drafts are called in a report."""
        return SELF if self.shared else "model"


def draft_slab(world: World, slab: Slab, source: str | None) -> DraftSlab | None:
    """What drafts for the model of a slab on this rank, if anything does. Collective.

    source: ``self``, a directory, or None. Raises Stopped if there is no such draft, or if it is of no use for this
    model.
    """
    if source is None:
        return None
    found, home = None, slab.path.parent
    with world.agreed():
        if source == SELF:
            found = DraftSlab(_own_copy(slab, world), shared=True)
        elif world.rank == ROOT:
            found = DraftSlab(_other_model(slab, home, Path(source)), shared=False)
        if found and found.slab.config.experts:
            raise UserError(
                f"the draft {found.slab.path.parent} is a mixture of experts; give a dense model as the draft"
            )
    if source == SELF:
        world.same(str(found.slab.path), found.slab.identity())
    return found


def _own_copy(slab: Slab, world: World) -> Slab:
    """This rank's slab of the model's copy. Raises UserError if there is none that goes with the slab."""
    home = slab.path.parent
    if not has_draft(home):
        raise UserError(f"{home} has no draft; split again with --with-draft int4, or choose another --draft")
    copy = own_slab(home / DRAFT, world.rank, world.size)
    check_draft(copy, slab)
    return copy


def _other_model(slab: Slab, home: Path, directory: Path) -> Slab:
    """A whole model's only slab. Raises UserError unless it has the tokens of the model that it is to draft for."""
    ranks = Manifest.load(directory).ranks
    if ranks != 1:
        raise UserError(
            f"the draft {directory} was split for {ranks} ranks, but rank 0 runs it alone; split it for one"
        )
    draft = own_slab(directory, 0, 1)
    if different := _difference(home, directory):
        raise UserError(f"the draft {directory} has another tokenizer than {home}: {different}; choose another --draft")
    return draft


def _difference(one: Path, other: Path) -> str | None:
    """What is different in two tokenizers, token by token; None if nothing is, or if there are none to compare."""
    if not (Tokenizer.is_in(one) or Tokenizer.is_in(other)):
        return None
    vocabularies = [Tokenizer.load(directory).vocabulary() for directory in (one, other)]
    for token_id in range(max(len(each) for each in vocabularies)):
        tokens = [each.get(token_id) for each in vocabularies]
        if tokens[0] != tokens[1]:
            return f"token {token_id} is {tokens[1]!r} instead of {tokens[0]!r}"
    return None
