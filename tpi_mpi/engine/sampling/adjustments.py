"""Tokens made more or less probable: by the user, or by what was said before. Logits are of shape (V,), and copied."""

from collections.abc import Mapping, Sequence

import numpy as np


def add_biases(logits: np.ndarray, biases: Sequence[tuple[int, float]]) -> np.ndarray:
    """Adds to the logits of some tokens."""
    biased, (ids, values) = logits.copy(), zip(*biases, strict=True)
    biased[np.array(ids, np.int64)] += np.array(values, logits.dtype)
    return biased


def penalise(logits: np.ndarray, token_ids: Sequence[int], penalty: float) -> np.ndarray:
    """Makes tokens that have occurred less probable, if the penalty is above 1 (CTRL, arXiv 1909.05858)."""
    penalised, index = logits.copy(), np.array(token_ids, np.int64)
    old = logits[index]
    penalised[index] = np.where(old < 0, old * penalty, old / penalty)
    return penalised


def penalise_counts(logits: np.ndarray, counts: Mapping[int, int], presence: float, frequency: float) -> np.ndarray:
    """Subtracts from the logits of tokens that were generated: ``presence`` once, ``frequency`` every time."""
    penalised, index = logits.copy(), np.array(list(counts), np.int64)
    penalised[index] -= presence + frequency * np.array(list(counts.values()), logits.dtype)
    return penalised
