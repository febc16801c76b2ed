"""How long a sweep takes, by the number of its rows: measured, and guessed where it has not been."""

from bisect import bisect_left

# Rows that are computed in the time in which weights are read from memory, at first sight.
_ROWS = 8
# How fast the times of all numbers of rows follow a measured one, and how fast that of its own number does besides.
_TOGETHER, _ALONE = 0.3, 0.1
# Of a first measurement at some number of rows, which may have had to prepare things, so much is believed.
_FIRST = 0.85
# A single sweep says no more than this factor, unless there is no other with so many rows.
_MOST = 2.0
# Beyond what has been measured, a row may cost so many times what the last ones did.
_STEEPER = 2.0
# Numbers of rows that are told apart; between them is interpolated.
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


class SweepTimes:
    """Seconds of a sweep as a curve over the number of its rows, and a level by which all of it goes up and down.

    The machines are at times faster and at times slower, whatever the rows: else a number of rows that was measured in
    a slow hour would never be tried again.
    """

    def __init__(self):
        self._level = 1.0
        self._curve: dict[int, float] = {}  # at level 1, where it has been measured
        self._computing = 1.0  # the part of the first sweep that was not spent waiting
        self._first = 0  # the rows of that one

    @property
    def known(self) -> bool:
        """Whether any sweep has been measured."""
        return bool(self._curve)

    def note(self, rows: int, seconds: float, computing: float) -> None:
        """Takes note of a sweep; ``computing``: seconds of it that were not spent waiting."""
        step = _step(rows)
        if not self._curve:
            self._first, self._computing = step, computing / seconds
            self._curve[step], self._level = 1.0, seconds
            return
        ratio = seconds / self.seconds(step)
        if step not in self._curve:
            self._curve[step] = self._guessed(step) * ratio**_FIRST
            return
        ratio = min(_MOST, max(1 / _MOST, ratio))
        self._level *= ratio**_TOGETHER
        self._curve[step] *= ratio**_ALONE

    def seconds(self, rows: int) -> float:
        """About how long a sweep takes."""
        return self._level * self._guessed(rows)

    def at_most(self, rows: int) -> float:
        """How long a sweep may take, if it is not known: as if every row beyond what is known cost as the first did."""
        last = max(self._curve)
        if rows <= last:
            return self.seconds(rows)
        slope = self._computing / self._first if len(self._curve) == 1 else _STEEPER * self._slope()
        return max(self.seconds(rows), self.seconds(last) + self._level * (rows - last) * slope)

    def _guessed(self, rows: int) -> float:
        """At level 1: between numbers of rows that have been measured, or from the nearest one."""
        steps = sorted(self._curve)
        place = bisect_left(steps, rows)
        if place < len(steps) and steps[place] == rows:
            return self._curve[rows]
        if 0 < place < len(steps):
            left, right = steps[place - 1], steps[place]
            part = (rows - left) / (right - left)
            return (1 - part) * self._curve[left] + part * self._curve[right]
        nearest = steps[min(place, len(steps) - 1)]
        found = self._curve[nearest] * self._shape(rows) / self._shape(nearest)
        return max(found, self._curve[nearest] + (rows - nearest) * self._slope()) if place else found

    def _slope(self) -> float:
        """What each of the last rows that were measured costs more than the ones before; 0 if there is but one."""
        *_, left, right = [0, *sorted(self._curve)]
        return max(0.0, (self._curve[right] - self._curve[left]) / (right - left)) if left else 0.0

    def _shape(self, rows: int) -> float:
        """As if computing and waiting went on side by side."""
        return max(1.0, self._computing * (_ROWS + rows) / (_ROWS + self._first))


def _step(rows: int) -> int:
    """The nearest number of rows that is told apart."""
    return min(_STEPS, key=lambda step: (abs(step - rows), step))
