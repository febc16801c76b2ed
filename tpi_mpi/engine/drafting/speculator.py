"""Drafts before a sweep, and what is learned from it."""

import time
from collections.abc import Callable
from collections.abc import Sequence as Several

from tpi_mpi.engine.drafting.draft import Draft
from tpi_mpi.engine.drafting.draft_model import DraftModel
from tpi_mpi.engine.drafting.lookup import Lookup
from tpi_mpi.engine.drafting.model_drafts import ModelDrafts
from tpi_mpi.engine.drafting.prospects import Found, Prospects
from tpi_mpi.engine.schedule.scheduler import Drafts, Scheduler
from tpi_mpi.engine.schedule.sequence import Sequence

Record = Callable[[str, int, int], None]
"""Is told of every draft: its kind, how many tokens were drafted, how many of them were right."""


class Speculator:
    """Drafts tokens for sequences that are past their prompts, as many as make tokens come faster: maybe none.

    What was said before is looked at first, then a model is asked where that is expected to know better.

    lookup, model: what drafts, or None. active: whether anything is drafted.
    """

    def __init__(self, scheduler: Scheduler, lookup: Lookup | None, model: DraftModel | None, record: Record):
        self._scheduler, self._lookup, self._record = scheduler, lookup, record
        self.active = True
        self._prospects = Prospects()
        self._model = ModelDrafts(model, scheduler, self._prospects) if model else None
        self._found: Found = {}  # by lookup
        self._guessed: Found = {}  # by the model
        self._drafts: Found = {}  # what of both is checked
        self._seconds = 0.0
        self._sequences = self._tokens = 0

    def drafts(self, decoding: Several[Sequence]) -> Drafts:
        """What is to be checked in the next sweep, of the sequences that are past their prompts."""
        began, self._found, self._guessed = time.perf_counter(), {}, {}
        if self._lookup and self.active and not self._prospects.in_debt:
            self._found = {own: self._lookup.find(own, self._scheduler.room_after(own)) for own in decoding}
        self._drafts = self._chosen(decoding) if decoding and self.active and self._prospects.ready else {}
        self._seconds = time.perf_counter() - began
        return {sequence: draft.token_ids for sequence, draft in self._drafts.items()}

    def _chosen(self, decoding: Several[Sequence]) -> Found:
        """The drafts that are worth it."""
        most = self._scheduler.drafted
        drafts, rate = self._prospects.worth(self._found, len(decoding), most)
        if self._model:
            self._guessed, spent = self._model.better(decoding, drafts, rate)
            better = {own: draft for own, draft in self._guessed.items() if draft.gain > _gain(drafts.get(own))}
            for sequence in self._guessed.keys() - better.keys():
                self._model.discard(sequence)
            if better:
                drafts, _ = self._prospects.worth({**drafts, **better}, len(decoding), most, spent)
        return drafts

    def verified(self, sequence: Sequence, count: int) -> None:
        """To be told once a sequence has so many new tokens by a sweep."""
        tokens = sequence.ids[-count:]
        if draft := self._drafts.get(sequence):
            self._record(draft.kind, len(draft), draft.right(tokens))
        if sequence in self._found:  # something is learned from what was not checked, too
            self._lookup.learn(sequence, self._found[sequence], tokens)
        if sequence in self._guessed:
            self._model.learn(sequence, self._guessed[sequence], tokens)
        if self._model:
            self._model.verified(sequence)
        self._sequences, self._tokens = self._sequences + 1, self._tokens + count

    def restarted(self, sequence: Sequence) -> None:
        """To be told if all of a sequence is to be computed again."""
        if self._model:
            self._model.forget(sequence)

    def ended(self, sequence: Sequence) -> None:
        """To be told once a sequence has ended."""
        if self._lookup:
            self._lookup.ended(sequence)
        self.restarted(sequence)

    def swept(self, rows: int, prompt_rows: int, seconds: float, computing: float) -> None:
        """To be told of every sweep: how many rows it had, how long it took, and what of that was not waiting."""
        if self._sequences:
            self._prospects.swept(rows, prompt_rows, seconds, computing, self._seconds, self._sequences, self._tokens)
        self._sequences = self._tokens = 0


def _gain(draft: Draft | None) -> float:
    return draft.gain if draft else 0.0
