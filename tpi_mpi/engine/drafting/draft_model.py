"""Drafts by a model, on rank 0's books: one more token after each of some sequences at a time."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Several
from dataclasses import replace

import numpy as np

from tpi_mpi.engine.sampling.probabilities import log_probabilities
from tpi_mpi.engine.schedule.scheduler import Scheduler
from tpi_mpi.engine.schedule.sequence import Sequence
from tpi_mpi.engine.sweep.readout import Readout, Want
from tpi_mpi.engine.sweep.step import Segment, Step
from tpi_mpi.model.room import Room

Forward = Callable[[Step, np.ndarray, Readout], None]
"""Has a step computed, given the embeddings of its tokens and what takes the logits."""


class DraftModel:
    """Continues sequences with a model whose tokens are drafts.

    kind: what it is called. embedding: looks up token ids. forward: computes.
    own_vocab_size: tokens that it has logits for; those from vocab_size on are not the other model's.
    shared: whether it reads and writes the keys and values of the model it drafts for. Else it has as many pages of its
        own, and computes for itself whatever it has not seen of a sequence.
    """

    def __init__(
        self,
        kind: str,
        scheduler: Scheduler,
        embedding: Callable[[Several[int]], np.ndarray],
        forward: Forward,
        room: Room,
        vocab_size: int,
        own_vocab_size: int,
        shared: bool,
    ):
        self.kind = kind
        self._scheduler, self._embedding, self._forward, self._room = scheduler, embedding, forward, room
        self._vocab_size, self._own_vocab_size, self._shared = vocab_size, own_vocab_size, shared
        self._computed: dict[Sequence, int] = {}

    def unseen(self, sequence: Sequence) -> int:
        """How many tokens of a sequence must be computed before the next one can be drafted."""
        return self._segment(sequence, ()).count

    def next_tokens(self, drafts: Mapping[Sequence, Several[int]]) -> dict[Sequence, tuple[int, float]]:
        """The token after each sequence and what has been drafted of it, and how probable the model holds it."""
        for sequence, draft in drafts.items():
            self._catch_up(sequence, draft)
        segments = {sequence: self._segment(sequence, draft) for sequence, draft in drafts.items()}
        logits = self._compute(segments, drafts)
        return {
            sequence: self._chosen(sequence, draft, row)
            for (sequence, draft), row in zip(drafts.items(), logits, strict=True)
        }

    def verified(self, sequence: Sequence) -> None:
        """To be told once a sequence has other tokens than before. What was drafted for others is of no use."""
        if self._shared:  # whatever was before the latest token has been computed by the other model
            self._computed.pop(sequence, None)
        elif sequence in self._computed:
            self._computed[sequence] = min(self._computed[sequence], len(sequence.ids) - 1)

    def discard(self, sequence: Sequence) -> None:
        """To be told if something else is checked than what was drafted for a sequence."""
        if sequence in self._computed:
            self._computed[sequence] = min(self._computed[sequence], len(sequence.ids))

    def forget(self, sequence: Sequence) -> None:
        """To be told once a sequence has ended, or has its keys and values elsewhere."""
        self._computed.pop(sequence, None)

    def _segment(self, sequence: Sequence, draft: Several[int]) -> Segment:
        """What has not been computed of a sequence and its draft."""
        length = len(sequence.ids) + len(draft)
        start = self._computed.get(sequence, sequence.computed if self._shared else 0)
        return Segment(sequence.slot, start, length - start, length, 1)

    def _catch_up(self, sequence: Sequence, draft: Several[int]) -> None:
        """Computes what is too much for the step that leads to the next token: after a prompt."""
        most = max(1, self._room.rows // self._room.sequences)
        while (segment := self._segment(sequence, draft)).count > most:
            piece = min(segment.count - 1, self._room.rows)
            part = replace(segment, count=piece, length=segment.start + piece, wanted=0)
            self._compute({sequence: part}, {sequence: draft})

    def _compute(
        self, segments: Mapping[Sequence, Segment], drafts: Mapping[Sequence, Several[int]]
    ) -> Iterable[np.ndarray]:
        """The logits after each segment of which they are wanted: (V,), of both models' tokens."""
        step = self._scheduler.drafting(segments, keep=not self._shared)
        ids = [id for sequence, own in segments.items() for id in _ids(sequence, drafts[sequence], own)]
        ids = [id if id < self._own_vocab_size else 0 for id in ids]  # whatever: what follows is only a guess
        wants = [Want() for segment in segments.values() for _ in range(segment.wanted)]
        readout = Readout(wants, self._own_vocab_size)
        self._forward(step, self._embedding(ids), readout)
        for sequence, segment in segments.items():
            self._computed[sequence] = segment.start + segment.count
        known, missing = readout.logits[:, : self._vocab_size], max(0, self._vocab_size - self._own_vocab_size)
        return np.pad(known, ((0, 0), (0, missing)), constant_values=-np.inf) if missing else known

    def _chosen(self, sequence: Sequence, draft: Several[int], logits: np.ndarray) -> tuple[int, float]:
        """A token, chosen as the sequence's own would be."""
        id = sequence.sampler.choose(logits, len(sequence.ids) + len(draft), draft)
        return id, float(np.exp(log_probabilities(logits, [id])[0]))


def _ids(sequence: Sequence, draft: Several[int], segment: Segment) -> list[int]:
    """The tokens of a segment, of which some may be drafted."""
    ids = sequence.ids[segment.start : segment.start + segment.count]
    first = max(0, segment.start - len(sequence.ids))
    return [*ids, *draft[first : first + segment.count - len(ids)]]
