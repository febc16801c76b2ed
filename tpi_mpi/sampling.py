"""From scores to the next token."""

from collections.abc import Sequence

import numpy as np
import torch

from tpi_mpi.options import SamplingOptions


class Sampler:
    """Chooses the tokens of one text.

    Temperature 0 takes the highest score. Otherwise the n-th token is drawn with one random number that depends on
    the seed and on n alone, so a seed gives the same text at any rank count, whatever else the run generates.

    options: with values for everything that is not off.
    """

    def __init__(self, options: SamplingOptions, prompt_ids: Sequence[int]):
        self._options = options
        self._seen = set(prompt_ids)
        self._random = np.random.Generator(np.random.Philox(options.seed)) if options.temperature else None

    def choose(self, logits: torch.Tensor) -> int:
        """The next token's id, from scores (V,)."""
        scores = logits
        if self._options.repetition_penalty not in (None, 1):
            scores = penalise(scores, sorted(self._seen), self._options.repetition_penalty)
        token_id = int(scores.argmax()) if self._random is None else self._draw(scores)
        self._seen.add(token_id)
        return token_id

    def _draw(self, scores: torch.Tensor) -> int:
        scores = scores.double() / self._options.temperature
        if self._options.top_k is not None:
            scores = keep_top_k(scores, self._options.top_k)
        if self._options.top_p is not None:
            scores = keep_top_p(scores, self._options.top_p)
        return draw(scores, self._random.random())


def penalise(scores: torch.Tensor, token_ids: Sequence[int], penalty: float) -> torch.Tensor:
    """Makes tokens that were there before less probable for a penalty above 1 (CTRL, arXiv 1909.05858)."""
    index = torch.tensor(token_ids, dtype=torch.long)
    old = scores[index]
    return scores.index_put((index,), torch.where(old < 0, old * penalty, old / penalty))


def keep_top_k(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Rules out all but the ``count`` highest scores, and those equal to the last of them."""
    least = scores.topk(min(count, len(scores))).values[-1]
    return scores.masked_fill(scores < least, -torch.inf)


def keep_top_p(scores: torch.Tensor, mass: float) -> torch.Tensor:
    """Keeps the fewest tokens whose probabilities reach ``mass``: nucleus sampling (arXiv 1904.09751)."""
    ordered, order = scores.sort(descending=True, stable=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    return scores.index_fill(0, order[before >= mass], -torch.inf)


def draw(scores: torch.Tensor, uniform: float) -> int:
    """The token at which the cumulative probability, in the order of ids, passes ``uniform`` in [0, 1)."""
    cumulative = scores.softmax(-1).cumsum(-1)
    return int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))


def log_probability(logits: torch.Tensor, token_id: int) -> float:
    """The model's own log-probability of a token, before temperature and the rest."""
    return float(logits[token_id] - logits.logsumexp(-1))
