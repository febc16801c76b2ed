"""Rank 0's part of the generation: requests in, tokens out, sweep by sweep."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.trace import Trace
from tpi_mpi.engine.drafting.speculator import Speculator
from tpi_mpi.engine.report import Throughput
from tpi_mpi.engine.request import Request, Token
from tpi_mpi.engine.sampling.grammar import Grammar
from tpi_mpi.engine.sampling.grammars import Grammars
from tpi_mpi.engine.sampling.probabilities import log_probabilities
from tpi_mpi.engine.schedule.pace import Pace
from tpi_mpi.engine.schedule.scheduler import Drafts, Scheduler
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
    speculator: drafts tokens. progress: a context manager to make a sweep in. throughput: where what has been done is
    noted. grammars: makes those of requests with a schema, or None. failed: whether a sweep was begun and not ended.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        pace: Pace,
        speculator: Speculator,
        rope: Rope,
        vocab_size: int,
        embedding: Callable,
        sweep: Callable[[Step, np.ndarray, Readout], None],
        progress: Callable[[], AbstractContextManager],
        trace: Trace,
        throughput: Throughput,
        grammars: Grammars | None = None,
    ):
        self._scheduler, self._pace, self.speculator = scheduler, pace, speculator
        self._rope, self._vocab_size = rope, vocab_size
        self._embedding, self._sweep, self._progress, self._trace = embedding, sweep, progress, trace
        self.throughput, self._grammars = throughput, grammars
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

        Raises UserError if there is never enough room for it, or if its schema cannot be followed.
        """
        sequence = Sequence(request, self._grammar(request))
        self._scheduler.add(sequence)
        return sequence

    def _grammar(self, request: Request) -> Grammar | None:
        """The grammar of a request's schema, if it has one. Raises UserError if there can be none."""
        schema = request.sampling.json_schema
        if schema is None:
            return None
        if self._grammars is None:
            raise UserError(
                "json_schema needs memory that was not set aside; start with --grammar, or in Python with grammar=True"
            )
        return self._grammars.of(schema, request.eos_token_ids)

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
        first, self.failed = time.perf_counter(), True
        drafts = self.speculator.drafts(self._scheduler.decoding)
        began, computed = time.perf_counter(), self._trace.seconds["compute"]
        step, owners = self._scheduler.next(self._pace.prompt_rows(bool(self._scheduler.decoding)), drafts)
        pairs = list(zip(step.segments, owners, strict=True))
        hidden = self._embedding([id for pair in pairs for id in _token_ids(*pair, drafts)])
        readout = Readout([want for segment, owner in pairs for want in _wants(segment, owner)], self._vocab_size)
        with self._progress():
            self._sweep(step, hidden, readout)
        self.failed = False
        self._scheduler.swept()
        continued = [owner for segment, owner in pairs if _continues(segment, owner)]
        prompt_rows = step.rows - len(continued) - sum(map(len, drafts.values()))
        events = self._outcome(pairs, readout, drafts)
        ended = time.perf_counter()
        computing = self._trace.seconds["compute"] - computed
        self._trace.sweep(began, ended - began, step.rows - prompt_rows, prompt_rows)
        self._pace.observe(step.rows, prompt_rows, ended - began, computing)
        self.speculator.swept(step.rows, prompt_rows, ended - began, computing)
        tokens = [owner for owner, token in events if token]
        turn_tokens = sum(owner in continued for owner in tokens)
        self.throughput.note(ended - first, step.rows, prompt_rows, len(tokens), len(continued), turn_tokens)
        return events

    def _outcome(self, pairs: list[tuple[Segment, Sequence]], readout: Readout, drafts: Drafts) -> list[Event]:
        """Takes note of the scores, and chooses the next tokens."""
        scores, logits, events = iter(readout.scores()), iter(readout.logits), []
        for segment, sequence in pairs:
            own = [next(scores) for _ in range(segment.wanted)]
            sequence.prompt_scores += [score for score in own if score is not None]
            if unscored := own.count(None):
                rows = [next(logits) for _ in range(unscored)]
                events += [(sequence, token) for token in self._next_tokens(sequence, rows, drafts.get(sequence, []))]
        return events

    def _next_tokens(self, sequence: Sequence, rows: list[np.ndarray], draft: list[int]) -> list[Token | None]:
        """The token that each row of logits leads to, up to the first that is not the drafted one, and with it.

        Every token is chosen as it would have been without drafts, so their sequence is the same: of drafts that are
        certain of themselves, this accepts as many as rejection sampling (Leviathan et al., arXiv 2211.17192).
        """
        if sequence.request.sampling.max_new_tokens == 0:
            self._end(sequence)
            return [None]
        tokens: list[Token] = []
        for logits, drafted in zip(rows, [*draft, None], strict=True):
            tokens.append(self._next_token(sequence, logits))
            if tokens[-1].finish_reason or tokens[-1].id != drafted:
                break
        self._scheduler.accept(sequence, len(tokens) - 1)
        self.speculator.verified(sequence, len(tokens))
        if tokens[-1].finish_reason:
            self._end(sequence)
        elif self._rope.restarts_at(len(sequence.ids)):
            self._scheduler.restart(sequence)
            self.speculator.restarted(sequence)
        seconds = sequence.lap() / len(tokens)
        return [replace(token, seconds=seconds) for token in tokens]

    def _next_token(self, sequence: Sequence, logits: np.ndarray) -> Token:
        """Adds a token to a sequence. How long it took is not known yet."""
        id = sequence.sampler.choose(logits, len(sequence.ids))
        sequence.add(id)
        best = most_probable(logits, sequence.request.sampling.top_logprobs).tolist()
        logprob, *others = log_probabilities(logits, [id, *best])
        reason = "stop" if sequence.sampler.ended else sequence.request.finish_reason(id, sequence.new_tokens)
        return Token(id, logprob, 0.0, reason, tuple(zip(best, others, strict=True)))

    def _end(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self.speculator.ended(sequence)
        self.throughput.end(sequence.cached_tokens)


def _continues(segment: Segment, sequence: Sequence) -> bool:
    """Whether it is a sequence's latest token, and what has been drafted after it, but none of its prompt's."""
    return segment.start >= len(sequence.request.token_ids) and segment.start + 1 == len(sequence.ids)


def _token_ids(segment: Segment, sequence: Sequence, drafts: Drafts) -> list[int]:
    own = sequence.ids[segment.start : segment.start + segment.count]
    return own + drafts.get(sequence, [])[: segment.count - len(own)]


def _wants(segment: Segment, sequence: Sequence) -> list[Want]:
    """What is wanted of each wanted row: the score of the prompt's token that follows, or logits after the last one."""
    stop, prompt = segment.start + segment.count, sequence.request.token_ids
    following = [prompt[at] if at < len(prompt) else None for at in range(stop - segment.wanted + 1, stop + 1)]
    return [Want(target, sequence.request.sampling.top_logprobs) for target in following]
