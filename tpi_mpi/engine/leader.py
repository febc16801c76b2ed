"""Rank 0's part of the generation: requests in, tokens out, sweep by sweep."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from tpi_mpi.common.trace import Trace
from tpi_mpi.engine.report import Throughput
from tpi_mpi.engine.request import Request, Token
from tpi_mpi.engine.sampling import log_probabilities
from tpi_mpi.engine.schedule.pace import Pace
from tpi_mpi.engine.schedule.scheduler import Scheduler
from tpi_mpi.engine.schedule.sequence import Sequence
from tpi_mpi.engine.sweep.readout import Readout, Want, most_probable
from tpi_mpi.engine.sweep.step import Segment, Step
from tpi_mpi.model.rope import Rope

Event = tuple[Sequence, Token | None]
"""A token and whose it is. None instead of a token: the sequence has ended without one, because only the scores of its
prompt were wanted."""


class Leader:
    """Decides what each sweep computes, and what becomes of it.

    sweep: has all ranks make a sweep, given the step, the embeddings of its tokens and what takes the logits.
    progress: a context manager to make it in. throughput: what has been done so far.
    failed: whether a sweep was begun and not ended.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        pace: Pace,
        rope: Rope,
        vocab_size: int,
        embedding: Callable,
        sweep: Callable[[Step, np.ndarray, Readout], None],
        progress: Callable[[], AbstractContextManager],
        trace: Trace,
    ):
        self._scheduler, self._pace, self._rope, self._vocab_size = scheduler, pace, rope, vocab_size
        self._embedding, self._sweep, self._progress, self._trace = embedding, sweep, progress, trace
        self.throughput = Throughput()
        self.failed = False

    @property
    def busy(self) -> bool:
        """Whether any sequence waits or is under way."""
        return self._scheduler.busy

    @property
    def hungry(self) -> bool:
        """Whether more requests could be put to use at once."""
        return self._scheduler.hungry

    def submit(self, request: Request) -> Sequence:
        """Has a request continued, in turn. Its tokens come out of :meth:`step`.

        Raises UserError if there is never enough room for it.
        """
        sequence = Sequence(request)
        self._scheduler.add(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Ends a sequence; its room is free for the next sweep. One that has ended may be cancelled too."""
        if sequence.slot is not None:
            self._end(sequence)
        elif not sequence.ended:  # its turn had not come
            self._scheduler.remove(sequence)

    def step(self) -> list[Event]:
        """Makes a sweep; returns what came of it. A token with a ``finish_reason`` is its sequence's last.

        Once a sweep has failed, the books tell of keys and values that are not there, and nothing more can be done.
        """
        assert not self.failed, "a sweep has failed; open the model again"
        began, computed = time.perf_counter(), self._trace.seconds["compute"]
        step, owners = self._scheduler.next(self._pace.prompt_rows(self._scheduler.decoding))
        pairs = list(zip(step.segments, owners, strict=True))
        hidden = self._embedding([id for segment, owner in pairs for id in _token_ids(segment, owner)])
        readout = Readout([want for segment, owner in pairs for want in _wants(segment, owner)], self._vocab_size)
        self.failed = True
        with self._progress():
            self._sweep(step, hidden, readout)
        self.failed = False
        self._scheduler.swept()
        events = self._outcome(pairs, readout)
        prompt_rows = sum(segment.count for segment, owner in pairs if not _continues(segment, owner))
        seconds = time.perf_counter() - began
        self._trace.sweep(began, seconds, step.rows - prompt_rows, prompt_rows)
        self._pace.observe(step.rows, prompt_rows, seconds, self._trace.seconds["compute"] - computed)
        self.throughput.note(seconds, step.rows, prompt_rows, sum(token is not None for _, token in events))
        return events

    def _outcome(self, pairs: list[tuple[Segment, Sequence]], readout: Readout) -> list[Event]:
        """Takes note of the scores, and chooses the next tokens."""
        scores, logits, events = iter(readout.scores()), iter(readout.logits), []
        for segment, sequence in pairs:
            for score in [next(scores) for _ in range(segment.wanted)]:
                if score is not None:
                    sequence.prompt_scores.append(score)
                else:
                    events.append((sequence, self._next_token(sequence, next(logits))))
        return events

    def _next_token(self, sequence: Sequence, logits: np.ndarray) -> Token | None:
        sampling = sequence.request.sampling
        if sampling.max_new_tokens == 0:
            self._end(sequence)
            return None
        sequence.ids.append(sequence.sampler.choose(logits, len(sequence.ids)))
        id, reason = sequence.ids[-1], sequence.request.finish_reason(sequence.ids[-1], sequence.new_tokens)
        best = most_probable(logits, sampling.top_logprobs).tolist()
        logprob, *others = log_probabilities(logits, [id, *best])
        if reason:
            self._end(sequence)
        elif self._rope.restarts_at(len(sequence.ids)):
            self._scheduler.restart(sequence)
        return Token(id, logprob, sequence.lap(), reason, tuple(zip(best, others, strict=True)))

    def _end(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self.throughput.end(sequence.cached_tokens)


def _continues(segment: Segment, sequence: Sequence) -> bool:
    """Whether it is a sequence's latest token alone, and none of its prompt's."""
    return segment.count == 1 and segment.start + 1 == segment.length > len(sequence.request.token_ids)


def _token_ids(segment: Segment, sequence: Sequence) -> list[int]:
    return sequence.ids[segment.start : segment.start + segment.count]


def _wants(segment: Segment, sequence: Sequence) -> list[Want]:
    """What is wanted of each wanted row: the score of the prompt's token that follows, or logits after the last one."""
    stop, prompt = segment.start + segment.count, sequence.request.token_ids
    following = [prompt[at] if at < len(prompt) else None for at in range(stop - segment.wanted + 1, stop + 1)]
    return [Want(target, sequence.request.sampling.top_logprobs) for target in following]
