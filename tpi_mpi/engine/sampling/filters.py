"""Which tokens a sample may be, by logits (V,) after temperature: all others get minus infinity."""

import numpy as np

from tpi_mpi.engine.sampling.probabilities import softmax


def keep_top_k(logits: np.ndarray, count: int) -> np.ndarray:
    """Rules out all but the ``count`` highest logits (V,) and those equal to the lowest of these."""
    place = max(0, len(logits) - count)
    least = np.partition(logits, place)[place]
    return np.where(logits < least, -np.inf, logits)


def keep_top_p(logits: np.ndarray, mass: float) -> np.ndarray:
    """Rules out all but the fewest tokens whose probabilities sum to ``mass``: nucleus sampling (arXiv 1904.09751)."""
    probabilities = softmax(logits)
    likely = np.flatnonzero(probabilities >= (1 - mass) / len(logits))  # all others together have less than 1 - mass
    order = likely[np.argsort(-logits[likely], kind="stable")]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept, chosen = np.full_like(logits, -np.inf), order[before < mass]
    kept[chosen] = logits[chosen]
    return kept


def keep_min_p(logits: np.ndarray, part: float) -> np.ndarray:
    """Rules out tokens with less than ``part`` of the probability of the most probable one (arXiv 2407.01082)."""
    return np.where(logits < logits.max() + np.log(part), -np.inf, logits)
