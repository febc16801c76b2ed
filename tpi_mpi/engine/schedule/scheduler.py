"""Which positions of which sequences are computed in the next sweep."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain

from tpi_mpi.common.errors import UserError
from tpi_mpi.engine.schedule.page_pool import PagePool, Prefix
from tpi_mpi.engine.schedule.sequence import Sequence
from tpi_mpi.engine.sweep.step import Assignment, Copy, Segment, Step
from tpi_mpi.kernels.kv_cache import PAGE, pages_for
from tpi_mpi.model.room import Room
from tpi_mpi.model.rope import Rope

Drafts = Mapping[Sequence, list[int]]
"""Tokens that may follow some sequences."""


class Scheduler:
    """Admits sequences in the order in which they come, and says what of each is computed next.

    A sequence is admitted once there are a slot and all the pages that it may need, so none has to give way later. In
    every sweep each sequence that is being continued computes its latest token, and what has been drafted after it;
    what rows are left go to prompts, the first come first, in as many pieces as it takes.

    share: whether a prompt that begins like earlier sequences refers to their keys and values.
    """

    def __init__(self, room: Room, rope: Rope, share: bool):
        self._room, self._rope, self._share = room, rope, share
        self._pool = PagePool(room.pages, share)
        self._slots = list(range(room.sequences - 1, -1, -1))
        self._waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._assignments: list[Assignment] = []
        self._copies: list[Copy] = []

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self.running)

    @property
    def hungry(self) -> bool:
        """Whether all sequences that wait could be admitted at once, as far as slots go."""
        return len(self._waiting) < max(1, len(self._slots))

    @property
    def decoding(self) -> list[Sequence]:
        """The sequences that are past their prompts, in the order in which they were admitted."""
        return [sequence for sequence in self.running if sequence.decoding]

    def add(self, sequence: Sequence) -> None:
        """Has a sequence wait for its turn. Raises UserError if there is never enough room for it."""
        length, longest = sequence.request.length, min(self._room.longest, PAGE * self._room.pages)
        if length > longest:
            raise UserError(
                f"a prompt of {len(sequence.request.token_ids)} tokens and its continuation take {length} positions, "
                f"but this run has memory for {longest} of a sequence; ask for fewer new tokens"
            )
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence, whether it waits or is under way."""
        sequence.ended = True
        if sequence.slot is None:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._assignments = [own for own in self._assignments if own.slot != sequence.slot]  # after a restart
        self._slots.append(sequence.slot)
        self._pool.release(sequence.pages)
        sequence.slot, sequence.pages = None, []

    def restart(self, sequence: Sequence) -> None:
        """Has all positions of a sequence computed again."""
        self._pool.release(sequence.pages)
        sequence.pages, sequence.computed = [], 0
        self._begin(sequence, self._known(sequence))

    @property
    def drafted(self) -> int:
        """The most drafted tokens in the next sweep, of all sequences together: some rows are left to prompts."""
        return min(self._room.drafted, (self._room.rows - len(self.decoding)) // 2)

    def room_after(self, sequence: Sequence) -> int:
        """The most tokens that may be drafted after a sequence. For all of them, its keys are turned alike."""
        length, most = len(sequence.ids), min(self._room.drafted, sequence.request.length - len(sequence.ids))
        kind = self._rope.kind(length)
        while most > 0 and self._rope.kind(length + most) != kind:
            most -= 1
        return max(0, most)

    def drafting(self, segments: Mapping[Sequence, Segment], keep: bool) -> Step:
        """A sweep of a model that drafts. keep: whether the ranks are to be told of pages with the next one as well."""
        for sequence, segment in segments.items():
            self._reach(sequence, segment.length)
        step = Step(list(segments.values()), list(self._assignments), draft=True)
        if not keep:
            self._assignments = []
        return step

    def next(self, prompt_rows: int, drafts: Drafts | None = None) -> tuple[Step, list[Sequence]]:
        """The next sweep, and whose each of its segments is.

        prompt_rows: the most rows of prompts in it. drafts: as many tokens as :attr:`drafted` and :meth:`room_after`
        allow.
        """
        drafts = drafts or {}
        taken = [(self._continued(sequence, drafts.get(sequence, ())), sequence) for sequence in self.decoding]
        rows = self._room.rows - sum(segment.count for segment, _ in taken)
        taken += self._prompts(min(max(1, prompt_rows), rows))
        step = Step([segment for segment, _ in taken], self._assignments, self._copies)
        self._assignments, self._copies = [], []
        return step, [sequence for _, sequence in taken]

    def swept(self) -> None:
        """To be called when the sweep is over."""
        self._pool.swept()

    def accept(self, sequence: Sequence, count: int) -> None:
        """Notes that so many drafted tokens are a sequence's own now, whose keys and values are in the cache already.

        Those of the others are there too, and will be overwritten before anything reads them.
        """
        sequence.computed += count
        self._remember(sequence)
        self._pool.swept()

    def _prompts(self, rows: int) -> Iterator[tuple[Segment, Sequence]]:
        """Positions of prompts that are under way, and then of those that wait, as far as the rows go.

        Of those before it in the same sweep, a prompt finds the keys and values already: rows are computed in order.
        """
        candidates = chain([sequence for sequence in self.running if sequence.pending > 0], self._admitted())
        while rows and (sequence := next(candidates, None)):
            segment = self._segment(sequence, min(rows, sequence.pending))
            rows -= segment.count
            yield segment, sequence

    def _admitted(self) -> Iterator[Sequence]:
        """Admits those that wait, as they are asked for."""
        while self._waiting and self._admit(self._waiting[0]):
            yield self._waiting.popleft()

    def _admit(self, sequence: Sequence) -> bool:
        """Gives a sequence a slot, and the pages that have what it begins with; says whether that was possible."""
        if not self._slots:
            return False
        promised = sum(other.pages_to_come for other in self.running)
        known = self._known(sequence)
        available = self._pool.available - self._pool.idle(known) - promised
        if pages_for(sequence.request.length) - len(known) > available:
            return False
        sequence.slot = self._slots.pop()
        sequence.begin()
        self.running.append(sequence)
        self._begin(sequence, known)
        sequence.cached_tokens = sequence.computed
        return True

    def _known(self, sequence: Sequence) -> list[Prefix]:
        """The pages with what a sequence begins with. The last token is computed anyhow: another follows from it."""
        if not self._refers(sequence):
            return []
        root = self._pool.root(self._rope.kind(len(sequence.ids)))
        return self._pool.find(root, sequence.ids[: len(sequence.ids) - 1])

    def _begin(self, sequence: Sequence, known: list[Prefix]) -> None:
        """Refers to the known pages that a sequence begins with, and copies the first part of another one."""
        sequence.kind = self._rope.kind(len(sequence.ids))
        sequence.prefix = known[-1] if known else self._pool.root(sequence.kind) if self._lasts(sequence) else None
        for prefix in known:
            self._assign(sequence, self._pool.refer(prefix))
        sequence.remembered, sequence.computed = len(known), PAGE * len(known)
        if not self._refers(sequence):
            return
        source, count = self._pool.find_part(sequence.prefix, sequence.ids[sequence.computed : len(sequence.ids) - 1])
        if source is None:
            return
        self._pool.refer(source)  # so that it is not what is taken
        if self._pool.available:
            self._copies.append(Copy(source.page, self._assign(sequence, self._pool.take())))
            sequence.computed += count
        self._pool.release([source.page])

    def _refers(self, sequence: Sequence) -> bool:
        """Whether a sequence may refer to keys and values of others. To be scored, all of a prompt must be computed."""
        scored = sequence.request.sampling.prompt_logprobs and sequence.new_tokens == 0
        return self._share and not scored and self._lasts(sequence)

    def _lasts(self, sequence: Sequence) -> bool:
        """Whether its keys stay as they are. Where all are computed again later, its pages must be its own until then:
        it gives them up, and as many must be there for it again."""
        return self._rope.kind(len(sequence.ids)) == self._rope.kind(sequence.request.length)

    def _assign(self, sequence: Sequence, page: int) -> int:
        self._assignments.append(Assignment(sequence.slot, len(sequence.pages), page))
        sequence.pages.append(page)
        return page

    def _continued(self, sequence: Sequence, draft: list[int]) -> Segment:
        """The latest token of a sequence, and what has been drafted after it."""
        segment, count = self._segment(sequence, 1), 1 + len(draft)
        self._reach(sequence, segment.start + count)
        return replace(segment, count=count, length=segment.start + count, wanted=count)

    def _reach(self, sequence: Sequence, length: int) -> None:
        """Takes pages for so many positions."""
        while len(sequence.pages) < pages_for(length):
            self._assign(sequence, self._pool.take())

    def _segment(self, sequence: Sequence, count: int) -> Segment:
        """The next positions of a sequence, for which pages are taken."""
        start = sequence.computed
        self._reach(sequence, start + count)
        sequence.computed += count
        self._remember(sequence)
        last = sequence.pending == 0
        wanted = count if sequence.request.sampling.prompt_logprobs and sequence.new_tokens == 0 else int(last)
        return Segment(sequence.slot, start, count, len(sequence.ids), wanted)

    def _remember(self, sequence: Sequence) -> None:
        """Tells the pool what the pages hold that are full now."""
        if sequence.prefix is None or self._rope.kind(len(sequence.ids)) != sequence.kind:
            sequence.prefix = None  # its later keys are turned otherwise, and of no use to anybody else
            return
        for place in range(sequence.remembered, sequence.computed // PAGE):
            token_ids = sequence.ids[place * PAGE : (place + 1) * PAGE]
            sequence.prefix = self._pool.remember(sequence.prefix, token_ids, sequence.pages[place])
            sequence.remembered += 1
