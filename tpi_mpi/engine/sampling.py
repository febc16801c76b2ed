"""From logits to the next token."""

from collections.abc import Iterable, Sequence

import numpy as np

from tpi_mpi.common.options import SamplingOptions


class Sampler:
    """Chooses the tokens of one request.

    Temperature 0 takes the highest logit. Otherwise a token is drawn with random numbers that depend on the seed and on
    the token's position alone, not on the number of ranks, nor on what else the run generates or has drafted. Similar
    logits mostly lead to the same token, so a model that drafts agrees with the one that it drafts for as often as it
    can without being told of it (Daliri et al., arXiv 2408.07978).

    options: with every value settled; None means off.
    """

    def __init__(self, options: SamplingOptions, prompt_ids: Sequence[int]):
        self._options = options
        self._seen = set(prompt_ids)

    def choose(self, logits: np.ndarray, position: int, drafted: Sequence[int] = ()) -> int:
        """The id of the token at a position, from its logits (V,).

        drafted: tokens before it that may turn out to be none.
        """
        if self._options.repetition_penalty not in (None, 1):
            logits = penalise(logits, sorted(self._seen.union(drafted)), self._options.repetition_penalty)
        return self._draw(logits, position) if self._options.temperature else int(logits.argmax())

    def see(self, token_id: int) -> None:
        """Takes note of a token of the sequence."""
        self._seen.add(token_id)

    def _draw(self, logits: np.ndarray, position: int) -> int:
        logits = logits.astype(np.float64) / self._options.temperature
        if self._options.top_k is not None:
            logits = keep_top_k(logits, self._options.top_k)
        if self._options.top_p is not None:
            logits = keep_top_p(logits, self._options.top_p)
        return draw(logits, uniforms(self._options.seed, position, len(logits)))


def penalise(logits: np.ndarray, token_ids: Sequence[int], penalty: float) -> np.ndarray:
    """Makes tokens that have occurred less probable, if the penalty is above 1 (CTRL, arXiv 1909.05858)."""
    penalised, index = logits.copy(), np.array(token_ids, np.int64)
    old = logits[index]
    penalised[index] = np.where(old < 0, old * penalty, old / penalty)
    return penalised


def keep_top_k(logits: np.ndarray, count: int) -> np.ndarray:
    """Rules out all but the ``count`` highest logits (V,) and those equal to the lowest of these."""
    place = max(0, len(logits) - count)
    least = np.partition(logits, place)[place]
    return np.where(logits < least, -np.inf, logits)


def keep_top_p(logits: np.ndarray, mass: float) -> np.ndarray:
    """Rules out all but the fewest tokens whose probabilities sum to ``mass``: nucleus sampling (arXiv 1904.09751)."""
    probabilities = _softmax(logits)
    likely = np.flatnonzero(probabilities >= (1 - mass) / len(logits))  # all others together have less than 1 - mass
    order = likely[np.argsort(-logits[likely], kind="stable")]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept, chosen = np.full_like(logits, -np.inf), order[before < mass]
    kept[chosen] = logits[chosen]
    return kept


def uniforms(seed: int, position: int, count: int) -> np.ndarray:
    """Random numbers in [0, 1) for a position: of Philox's, which can be had in any order (Random123, SC 2011)."""
    return np.random.Generator(np.random.Philox(key=seed, counter=position << 128)).random(count)


# More than rounding to float32 can take from a chance.
_ROUNDED = np.float32(1.01)


def draw(logits: np.ndarray, uniforms: np.ndarray) -> int:
    """A token, with the probabilities of logits (V,), by the Gumbel-max trick (Maddison et al., arXiv 1411.0030).

    uniforms: (V,), in [0, 1); those of probable tokens decide, so the same ones draw the same token from logits that
    are nearly the same.
    """
    likeliest = int(logits.argmax())
    with np.errstate(all="ignore"):  # where one is 0, its token is the last to be drawn
        least = logits[likeliest] + _gumbels(uniforms[likeliest])
        chances = np.exp((logits - least).astype(np.float32))  # of reaching as much, at most
        possible = np.flatnonzero(1 - uniforms <= _ROUNDED * chances)
        return int(possible[(logits[possible] + _gumbels(uniforms[possible])).argmax()])


def _gumbels(uniforms: np.ndarray) -> np.ndarray:
    return -np.log(-np.log(uniforms))


def _softmax(logits: np.ndarray) -> np.ndarray:
    """The probabilities (V,) of logits (V,)."""
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def log_probabilities(logits: np.ndarray, token_ids: Iterable[int]) -> list[float]:
    """Some tokens' log-probabilities by the model itself, before temperature and the like."""
    largest = logits.max()
    total = np.exp(logits - largest).sum(dtype=np.float64)  # of far more numbers than float32 can add up precisely
    return [float(logits[token_id]) - float(largest) - float(np.log(total)) for token_id in token_ids]
