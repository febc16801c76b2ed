"""How far weights that were rounded to codes are from those of the checkpoint."""

from collections.abc import Mapping

import numpy as np


class Deviation:
    """Of one tensor, gathered from its pieces. largest: the largest error of a weight, as it is, not squared."""

    def __init__(self):
        self.largest = 0.0
        self._errors, self._weights = 0.0, 0
        self._scales, self._groups = 0.0, 0

    def add(self, stored: np.ndarray, exact: np.ndarray, scales: np.ndarray) -> None:
        """Some weights as stored and as they were, float32 (n, K), with the scales of their groups."""
        errors = np.abs(stored - exact)
        self.largest = max(self.largest, float(errors.max()))
        self._errors += float(errors.sum(dtype=np.float64))
        self._weights += errors.size
        self._scales += float(np.abs(scales).sum(dtype=np.float64))  # the sign of a scale says which end it reaches
        self._groups += scales.size

    @property
    def mean(self) -> float:
        return self._errors / self._weights

    @property
    def is_too_large(self) -> bool:
        """Whether this is not what rounding does: that errs by half a scale at most, outliers that it clips aside."""
        return not self.mean <= self._scales / self._groups


def table(deviations: Mapping[str, Deviation]) -> str:
    """A line for each tensor, for people."""
    width = max(map(len, deviations))
    lines = [f"{'tensor':<{width}}  {'largest error':>13}  {'mean error':>10}"]
    for name, deviation in deviations.items():
        lines.append(f"{name:<{width}}  {deviation.largest:>13.6f}  {deviation.mean:>10.6f}")
    return "\n".join(lines)


def worst(deviations: Mapping[str, Deviation]) -> str:
    """The tensor with the largest mean error."""
    return max(deviations, key=lambda name: deviations[name].mean)
