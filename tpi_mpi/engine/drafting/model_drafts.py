"""Drafts by a model: for which sequences, and how long ones."""

import time
from collections.abc import Hashable
from collections.abc import Sequence as Several

from tpi_mpi.engine.drafting.chances import Chances
from tpi_mpi.engine.drafting.draft import Draft
from tpi_mpi.engine.drafting.draft_model import DraftModel
from tpi_mpi.engine.drafting.prospects import Found, Prospects
from tpi_mpi.engine.drafting.sweep_times import SweepTimes
from tpi_mpi.engine.schedule.scheduler import Scheduler
from tpi_mpi.engine.schedule.sequence import Sequence

# Places in a draft that are told apart, and how probable the model holds a token: in so many steps.
_PLACES, _LEVELS = 16, 10
# What is expected of a token at any place, and of the time that it takes, in sweeps.
_CHANCE, _STEP = 0.7, 0.1
# Its first steps, which prepare things, tell nothing of the time that others take.
_PREPARING = 2
# By so much drafts of the model must be better than what can be had without it.
_MARGIN = 1.01
# Of the time that a sequence's other tokens would take, what may be spent on catching up with it.
_PAYS = 0.2


class ModelDrafts:
    """Has a model draft where that makes tokens come faster, and stops where it no longer does.

    Before a token is drafted, its chance is judged by its place; once it is there, by how probable the model holds it.
    """

    def __init__(self, model: DraftModel, scheduler: Scheduler, prospects: Prospects):
        self._model, self._scheduler, self._prospects = model, scheduler, prospects
        self._chances = Chances(_expected)
        self._times = SweepTimes()
        self._preparing = _PREPARING
        self._row_seconds: float | None = None  # of what the model has to catch up with

    def better(self, decoding: Several[Sequence], found: Found, rate: float) -> tuple[Found, float]:
        """Drafts where they are better than those that were found, and the seconds that they took.

        decoding: all sequences that get a token. rate: what may be expected without.
        """
        chosen, began = self._preferred(decoding, found, rate), time.perf_counter()
        others = {sequence: draft for sequence, draft in found.items() if sequence not in chosen}
        drafts = {sequence: Draft(self._model.kind) for sequence in chosen}
        while chosen:
            self._add(chosen, drafts)
            chosen = self._continuing(drafts, others, len(decoding), time.perf_counter() - began)
        return drafts, time.perf_counter() - began

    def learn(self, sequence: Sequence, draft: Draft, token_ids: list[int]) -> None:
        """Takes note of what a sequence went on with after a draft."""
        self._chances.learn(sequence, draft, token_ids)

    def verified(self, sequence: Sequence) -> None:
        """To be told once a sequence has other tokens than before."""
        self._model.verified(sequence)

    def discard(self, sequence: Sequence) -> None:
        """To be told if something else is checked than what the model drafted for a sequence."""
        self._model.discard(sequence)

    def forget(self, sequence: Sequence) -> None:
        """To be told once a sequence has ended, or has its keys and values elsewhere."""
        self._model.forget(sequence)

    def _preferred(self, decoding: Several[Sequence], found: Found, rate: float) -> list[Sequence]:
        """The sequences for which the model should draft."""
        possible, catching = self._possible(decoding, rate)
        gains, chances = dict.fromkeys(possible, 0.0), dict.fromkeys(possible, 1.0)
        best, chosen, sequences = _MARGIN * rate, [], len(decoding)
        for place in range(min(_PLACES, self._scheduler.drafted)):
            for sequence in possible:
                chances[sequence] *= self._chances.of(sequence, _place(place))
                gains[sequence] += chances[sequence]
            better = [own for own in possible if own not in found or gains[own] > found[own].gain]
            others = [draft for sequence, draft in found.items() if sequence not in better]
            tokens = sequences + sum(gains[own] for own in better) + sum(draft.gain for draft in others)
            drafted = (place + 1) * len(better) + sum(map(len, others))
            spent = (place + 1) * self._step_seconds(len(better))
            new = self._prospects.rate(tokens, sequences + drafted, spent)
            may = self._prospects.affordable(sequences + drafted, sequences, spent + catching)
            if better and new > best and may and drafted <= self._scheduler.drafted:
                best, chosen = new, better
        return chosen

    def _possible(self, decoding: Several[Sequence], rate: float) -> tuple[list[Sequence], float]:
        """The sequences for which the model may draft, and the seconds that it needs to catch up with them.

        There must be room for a draft, and what the model has to compute for its first token must be likely to pay.
        """
        possible, catching = [], 0.0
        row = self._row_seconds or self._step_seconds(1) / 4
        for sequence in decoding:
            rows, left = self._model.unseen(sequence), sequence.request.length - len(sequence.ids)
            seconds = rows * row if rows > 2 else 0.0
            pays = seconds <= _PAYS * left / rate and self._prospects.affordable(1, 1, catching + seconds)
            if pays and self._scheduler.room_after(sequence):
                possible.append(sequence)
                catching += seconds
        return possible, catching

    def _add(self, chosen: Several[Sequence], drafts: Found) -> None:
        """Adds a token to some drafts."""
        rows, began = sum(self._model.unseen(sequence) for sequence in chosen), time.perf_counter()
        tokens = self._model.next_tokens({sequence: drafts[sequence].token_ids for sequence in chosen})
        seconds = time.perf_counter() - began
        if rows > 2 * len(chosen):
            self._row_seconds = seconds / rows
        elif self._preparing:
            self._preparing -= 1
        else:
            self._times.note(len(chosen), seconds, seconds)
        for sequence, (token_id, probability) in tokens.items():
            level = "level", int(_LEVELS * probability)
            signs = level, _place(len(drafts[sequence]))
            drafts[sequence].add(token_id, self._chances.of(sequence, level), signs)

    def _continuing(self, drafts: Found, others: Found, sequences: int, spent: float) -> list[Sequence]:
        """The sequences whose drafts should get one more token."""
        both = [*drafts.values(), *others.values()]
        tokens, rows = sequences + sum(draft.gain for draft in both), sequences + sum(map(len, both))
        gains = {sequence: self._next_gain(sequence, draft) for sequence, draft in drafts.items()}
        ranked = sorted((own for own in gains if gains[own]), key=gains.get, reverse=True)
        best, chosen = self._prospects.rate(tokens, rows, spent), []
        for count, sequence in enumerate(ranked[: max(0, self._scheduler.drafted + sequences - rows)], 1):
            tokens += gains[sequence]
            later = spent + self._step_seconds(count)
            new = self._prospects.rate(tokens, rows + count, later)
            if new > best and self._prospects.affordable(rows + count, sequences, later):
                best, chosen = new, ranked[:count]
        return chosen

    def _next_gain(self, sequence: Sequence, draft: Draft) -> float:
        """What may be expected of one more token of a draft: 0 if there is no room for it."""
        if len(draft) >= self._scheduler.room_after(sequence):
            return 0.0
        return draft.chance * self._chances.of(sequence, _place(len(draft)))

    def _step_seconds(self, sequences: int) -> float:
        """About how long the model takes for one token after each of some sequences."""
        if self._times.known:
            return self._times.seconds(max(1, sequences))
        return _STEP * self._prospects.times.seconds(1)


def _place(place: int) -> Hashable:
    """What a token is judged by before it is there."""
    return "place", min(place, _PLACES - 1)


def _expected(sign: Hashable) -> float:
    """A model mostly knows how sure it is."""
    kind, value = sign
    return _CHANCE if kind == "place" else (value + 0.5) / (_LEVELS + 1)
