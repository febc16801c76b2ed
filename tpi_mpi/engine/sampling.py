"""From logits to the next token."""

from collections.abc import Sequence

import numpy as np
import torch

from tpi_mpi.common.options import SamplingOptions


class Sampler:
    """Chooses the tokens of one request.

    Temperature 0 takes the highest logit. Otherwise the n-th token is drawn with one random number that depends on
    the seed and on n alone, not on the number of ranks or on what else the run generates.

    options: with every value settled; None means off.
    """

    def __init__(self, options: SamplingOptions, prompt_ids: Sequence[int]):
        self._options = options
        self._seen = set(prompt_ids)
        self._random = np.random.Generator(np.random.Philox(options.seed)) if options.temperature else None

    def choose(self, logits: torch.Tensor) -> int:
        """The next token's id, from its logits (V,)."""
        if self._options.repetition_penalty not in (None, 1):
            logits = penalise(logits, sorted(self._seen), self._options.repetition_penalty)
        token_id = int(logits.argmax()) if self._random is None else self._draw(logits)
        self._seen.add(token_id)
        return token_id

    def _draw(self, logits: torch.Tensor) -> int:
        logits = logits.double() / self._options.temperature
        if self._options.top_k is not None:
            logits = keep_top_k(logits, self._options.top_k)
        if self._options.top_p is not None:
            logits = keep_top_p(logits, self._options.top_p)
        return draw(logits, self._random.random())


def penalise(logits: torch.Tensor, token_ids: Sequence[int], penalty: float) -> torch.Tensor:
    """Makes tokens that have occurred less probable, if the penalty is above 1 (CTRL, arXiv 1909.05858)."""
    index = torch.tensor(token_ids, dtype=torch.long)
    old = logits[index]
    return logits.index_put((index,), torch.where(old < 0, old * penalty, old / penalty))


def keep_top_k(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Rules out all but the ``count`` highest logits (V,) and those equal to the lowest of these."""
    least = logits.topk(min(count, len(logits))).values[-1]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: torch.Tensor, mass: float) -> torch.Tensor:
    """Rules out all but the fewest tokens whose probabilities sum to ``mass``: nucleus sampling (arXiv 1904.09751)."""
    ordered, order = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    return logits.index_fill(0, order[before >= mass], -torch.inf)


def draw(logits: torch.Tensor, uniform: float) -> int:
    """The token at which the cumulative probability, in order of ids, exceeds ``uniform``, a number in [0, 1)."""
    cumulative = logits.softmax(-1).cumsum(-1)
    return int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))


def log_probability(logits: torch.Tensor, token_id: int) -> float:
    """A token's log-probability by the model itself, before temperature and the like."""
    return float(logits[token_id] - logits.logsumexp(-1))
