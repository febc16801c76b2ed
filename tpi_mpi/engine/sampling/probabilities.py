"""Probabilities of tokens, from logits (V,)."""

from collections.abc import Iterable

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """The probabilities (V,) of logits (V,)."""
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def log_probabilities(logits: np.ndarray, token_ids: Iterable[int]) -> list[float]:
    """Some tokens' log-probabilities by the model itself, before temperature and the like."""
    largest = logits.max()
    total = np.exp(logits - largest).sum(dtype=np.float64)  # of far more numbers than float32 can add up precisely
    return [float(logits[token_id]) - float(largest) - float(np.log(total)) for token_id in token_ids]
