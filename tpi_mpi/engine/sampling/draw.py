"""A token at random, by a seed and its position alone."""

import numpy as np


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
