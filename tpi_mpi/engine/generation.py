"""Requests from an iterator, continued together, to completions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tpi_mpi.engine.completion import Completion
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.leader import Leader
from tpi_mpi.engine.report import Latencies
from tpi_mpi.engine.request import Request, Score, Token
from tpi_mpi.engine.schedule.sequence import Sequence


@dataclass(frozen=True)
class Answer:
    """A request that has been answered.

    key: whatever it was given with. cached_tokens: tokens of its prompt whose keys and values were there already.
    scored: whether the scores of the prompt were asked for. prompt_scores: of all its tokens but the first.
    """

    key: object
    completion: Completion
    cached_tokens: int
    scored: bool = False
    prompt_scores: list[Score] = field(default_factory=list)


class Generation:
    """Takes requests as there is use for them, and gives up those that are left when it is closed.

    latencies: where the tokens' times are noted. show: is told each piece of text as it comes, of all requests.
    tokens: that have been generated so far.
    """

    def __init__(
        self, leader: Leader, intake: Intake, latencies: Latencies, show: Callable[[str], None] = lambda piece: None
    ):
        self._leader, self._intake, self._latencies, self._show = leader, intake, latencies, show
        self._running: dict[Sequence, tuple[object, Completion]] = {}
        self.tokens = 0

    def sweeps(self, requests: Iterator[tuple[object, Request]]) -> Iterator[list[Answer]]:
        """Yields, after each sweep, what ended with it.

        requests: each with a key, by which its answer is known.
        """
        try:
            while self._feed(requests):
                events = list(self._leader.step())
                yield [self._ended(sequence) for event in events for sequence in self._push(*event)]
        finally:
            for sequence in self._running:
                self._leader.cancel(sequence)

    def _feed(self, requests: Iterator[tuple[object, Request]]) -> bool:
        """Submits as many requests as there is use for; says whether there is anything to do."""
        while self._leader.hungry and (pair := next(requests, None)):
            key, request = pair
            self._running[self._leader.submit(request)] = key, self._intake.completion(request)
        return self._leader.busy

    def _push(self, sequence: Sequence, token: Token | None) -> Iterator[Sequence]:
        """Adds a token to its completion; yields the sequence if it ends with that.

        Of several tokens of one sweep, those after a stop string are dropped.
        """
        if sequence not in self._running:
            assert sequence.ended, "another generation's sequence: only one may be under way"
            self._leader.throughput.unsaid()
            return
        _, completion = self._running[sequence]
        if token:
            self.tokens += 1
            self._latencies.add(token.seconds, first=not completion.tokens)
        self._show(completion.push(token))
        if completion.finish_reason:
            if token and not token.finish_reason:  # a stop string, of which the leader cannot know
                self._leader.cancel(sequence)
            yield sequence

    def _ended(self, sequence: Sequence) -> Answer:
        key, completion = self._running.pop(sequence)
        self._show(completion.finish())
        scored = sequence.request.sampling.prompt_logprobs
        return Answer(key, completion, sequence.cached_tokens, scored, sequence.prompt_scores)
