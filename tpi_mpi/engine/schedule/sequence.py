"""One request on its way: its tokens so far, and where its keys and values are."""

import time

from tpi_mpi.engine.request import Request, Score
from tpi_mpi.engine.sampling.grammar import Grammar
from tpi_mpi.engine.sampling.sampler import Sampler
from tpi_mpi.engine.schedule.page_pool import Prefix
from tpi_mpi.kernels.kv_cache import pages_for


class Sequence:
    """What rank 0 knows of a sequence.

    grammar: of its request's schema, if that has one.
    ids: its tokens so far. computed: positions whose keys and values are in the cache, or will be after this sweep.
    slot: its place among those that are under way; None while it waits, and when it has ended.
    pages: numbers of its pages, in the order of positions.
    remembered: how many of them, from the first on, the pool knows the content of. prefix: the last of these.
    kind: of the rotary embedding that its keys are turned by.
    cached_tokens: tokens of its prompt whose keys and values were there already.
    prompt_scores: of all tokens of the prompt but the first, if they were asked for.
    """

    def __init__(self, request: Request, grammar: Grammar | None = None):
        self.request = request
        self.ids = list(request.token_ids)
        self.sampler = Sampler(request.sampling, request.token_ids, grammar)
        self.computed = 0
        self.slot: int | None = None
        self.pages: list[int] = []
        self.remembered = 0
        self.prefix: Prefix | None = None
        self.kind = 0
        self.cached_tokens = 0
        self.prompt_scores: list[Score] = []
        self.ended = False
        self._last_event = time.perf_counter()

    @property
    def pending(self) -> int:
        """Positions that are known and must be computed before the next token is."""
        return len(self.ids) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether only its latest token must be computed."""
        return self.pending == 1 and len(self.ids) > len(self.request.token_ids)

    @property
    def new_tokens(self) -> int:
        return len(self.ids) - len(self.request.token_ids)

    def add(self, token_id: int) -> None:
        """Adds a token that was chosen."""
        self.ids.append(token_id)
        self.sampler.see(token_id)

    @property
    def pages_to_come(self) -> int:
        """Pages that it may still need."""
        return pages_for(self.request.length) - len(self.pages)

    def begin(self) -> None:
        """Notes that its turn has come, from when on its time counts."""
        self._last_event = time.perf_counter()

    def lap(self) -> float:
        """Seconds since this was called last or, the first time, since its turn came."""
        now = time.perf_counter()
        before, self._last_event = self._last_event, now
        return now - before
