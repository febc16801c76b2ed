"""The search for the scales of groups by numpy: slow, obvious, and to the bit what the compiled one finds."""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.kernels.scales.candidates import LARGEST, SMALLEST, Candidates


@dataclass(frozen=True)
class _Trial:
    """One candidate for each group, (G,) in float32. least, most: the range of the codes less the zero point."""

    scale: np.ndarray
    zero_point: np.ndarray
    least: np.ndarray
    most: np.ndarray

    def steps(self, groups: np.ndarray) -> np.ndarray:
        """Codes less the zero point, in float32."""
        steps = np.rint(groups * (1 / self.scale)[:, None])
        return np.clip(steps, self.least[:, None], self.most[:, None])

    def squared_errors(self, groups: np.ndarray) -> np.ndarray:
        """(G,), summed in the order of the compiled search: by fours."""
        misses = (groups - self.steps(groups) * self.scale[:, None]) ** 2
        one, two, three, four = (misses[:, i::4] for i in range(4))
        return np.cumsum((one + two) + (three + four), axis=1)[:, -1]


def search_scales(groups: np.ndarray, tried: Candidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (G, group) as bytes, scales and zero points (G,) in float32, of groups (G, group) of float32.

    The length of a group is a multiple of four. Raises ValueError if a number is not finite.
    """
    if not np.isfinite(groups).all():
        raise ValueError("a number is not finite")
    lowest, highest = groups.min(1, initial=0), groups.max(1, initial=0)
    trials = [_trial(lowest, highest, low, high, tried) for low, high in zip(tried.low, tried.high, strict=True)]
    best = np.argmin([trial.squared_errors(groups) for trial in trials], axis=0)
    arrays = zip(*(vars(trial).values() for trial in trials), strict=True)
    chosen = _Trial(*(np.choose(best, several) for several in arrays))
    codes = (chosen.steps(groups) + chosen.zero_point[:, None]).astype(np.int16).astype(np.uint8)
    return codes, np.where(lowest == highest, np.float32(0), chosen.scale), chosen.zero_point


def _trial(lowest: np.ndarray, highest: np.ndarray, low: np.float32, high: np.float32, tried: Candidates) -> _Trial:
    """The candidate of the shares ``low`` and ``high``, for groups with these extremes."""
    zero = np.full_like(lowest, tried.zero)
    if tried.zero_points:
        scale = _as_float16(highest * high - lowest * low)
        span = tried.last - tried.first
        zero = tried.first + np.minimum(np.rint(-lowest * low * span * (1 / scale)), span)
    else:
        sign = np.where(-lowest >= highest, np.float32(1), np.float32(-1))
        scale = _as_float16(np.maximum(-lowest, highest) * low) * sign
    return _Trial(scale, zero, tried.first - zero, tried.last - zero)


def _as_float16(size: np.ndarray) -> np.ndarray:
    return np.clip(size, np.float32(SMALLEST), np.float32(LARGEST)).astype(np.float16).astype(np.float32)
