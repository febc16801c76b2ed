"""The tokens of one request, chosen one by one."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.sampling.adjustments import add_biases, penalise, penalise_counts
from tpi_mpi.engine.sampling.draw import draw, uniforms
from tpi_mpi.engine.sampling.filters import keep_min_p, keep_top_k, keep_top_p
from tpi_mpi.engine.sampling.grammar import Grammar


class Sampler:
    """Chooses the tokens of one request.

    Temperature 0 takes the highest logit. Otherwise a token is drawn with random numbers that depend on the seed and on
    the token's position alone, not on the number of ranks, nor on what else the run generates or has drafted. Similar
    logits mostly lead to the same token, so a model that drafts agrees with the one that it drafts for as often as it
    can without being told of it (Daliri et al., arXiv 2408.07978).

    options: with every value settled; None means off. grammar: of the request's schema, if it has one.
    """

    def __init__(self, options: SamplingOptions, prompt_ids: Sequence[int], grammar: Grammar | None = None):
        self._options = options
        self._seen = set(prompt_ids)
        self._generated: Counter[int] = Counter()
        self._grammar = grammar

    @property
    def ended(self) -> bool:
        """Whether a grammar leaves nothing to choose from."""
        return self._grammar is not None and self._grammar.ended

    def choose(self, logits: np.ndarray, position: int, drafted: Sequence[int] = ()) -> int:
        """The id of the token at a position, from its logits (V,).

        drafted: tokens before it that may turn out to be none.
        """
        options = self._options
        if options.logit_bias:
            logits = add_biases(logits, options.logit_bias)
        if self._grammar:
            logits = self._grammar.restrict(logits, drafted)
        logits = self._penalise(logits, drafted)
        return self._draw(logits, position) if options.temperature else int(logits.argmax())

    def see(self, token_id: int) -> None:
        """Takes note of a token of the sequence."""
        self._seen.add(token_id)
        self._generated[token_id] += 1
        if self._grammar:
            self._grammar.see(token_id)

    def _penalise(self, logits: np.ndarray, drafted: Sequence[int]) -> np.ndarray:
        options = self._options
        if options.repetition_penalty not in (None, 1):
            logits = penalise(logits, sorted(self._seen.union(drafted)), options.repetition_penalty)
        if options.presence_penalty or options.frequency_penalty:
            counts = self._generated + Counter(drafted) if drafted else self._generated
            logits = penalise_counts(logits, counts, options.presence_penalty or 0, options.frequency_penalty or 0)
        return logits

    def _draw(self, logits: np.ndarray, position: int) -> int:
        options, logits = self._options, logits.astype(np.float64)
        with np.errstate(over="ignore"):  # at hardly any temperature, only the likeliest token is left
            logits = (logits - logits.max()) / options.temperature
        if options.top_k is not None:
            logits = keep_top_k(logits, options.top_k)
        if options.top_p is not None:
            logits = keep_top_p(logits, options.top_p)
        if options.min_p:
            logits = keep_min_p(logits, options.min_p)
        return draw(logits, uniforms(options.seed, position, len(logits)))
