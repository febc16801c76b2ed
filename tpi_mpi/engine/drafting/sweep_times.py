"""How long a sweep takes, by the number of its rows: measured, and guessed where it has not been."""

from bisect import bisect_left, insort

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


class SweepTimes:
    """Seconds of a sweep as a curve over the number of its rows, and a level by which all of it goes up and down.

    The machines are at times faster and at times slower, whatever the rows: else a number of rows that was measured in
    a slow hour would never be tried again.
    """

    def __init__(self):
        self._level = 1.0
        self._curve: dict[int, float] = {}  # by rows, at level 1, where it has been measured
        self._measured: list[int] = []  # those rows, in order
        self._computing = 1.0  # the part of the first sweep that was not spent waiting
        self._first = 0  # the rows of that one

    @property
    def known(self) -> bool:
        """Whether any sweep has been measured."""
        return bool(self._curve)

    def note(self, rows: int, seconds: float, computing: float) -> None:
        """Takes note of a sweep; ``computing``: seconds of it that were not spent waiting."""
        if not self._curve:
            self._first, self._computing = rows, computing / seconds
            self._curve[rows], self._level, self._measured = 1.0, seconds, [rows]
            return
        ratio = seconds / self.seconds(rows)
        if rows not in self._curve:
            self._curve[rows] = self._guessed(rows) * ratio**_FIRST
            insort(self._measured, rows)
            return
        ratio = min(_MOST, max(1 / _MOST, ratio))
        self._level *= ratio**_TOGETHER
        self._curve[rows] *= ratio**_ALONE

    def seconds(self, rows: int) -> float:
        """About how long a sweep takes."""
        return self._level * self._guessed(rows)

    def at_most(self, rows: int) -> float:
        """How long a sweep may take, if it is not known: as if every row beyond what is known cost as the first did."""
        last = self._measured[-1]
        if rows <= last:
            return self.seconds(rows)
        slope = self._computing / self._first if len(self._curve) == 1 else _STEEPER * self._slope()
        return max(self.seconds(rows), self.seconds(last) + self._level * (rows - last) * slope)

    def _guessed(self, rows: int) -> float:
        """At level 1: between numbers of rows that have been measured, or from the nearest one."""
        if rows in self._curve:
            return self._curve[rows]
        place = bisect_left(self._measured, rows)
        if 0 < place < len(self._measured):
            left, right = self._measured[place - 1 : place + 1]
            part = (rows - left) / (right - left)
            return (1 - part) * self._curve[left] + part * self._curve[right]
        nearest = self._measured[min(place, len(self._measured) - 1)]
        found = self._curve[nearest] * self._shape(rows) / self._shape(nearest)
        return max(found, self._curve[nearest] + (rows - nearest) * self._slope()) if place else found

    def _slope(self) -> float:
        """What each of the last rows that were measured costs more than the ones before; 0 if there is but one."""
        if len(self._measured) < 2:
            return 0.0
        left, right = self._measured[-2:]
        return max(0.0, (self._curve[right] - self._curve[left]) / (right - left))

    def _shape(self, rows: int) -> float:
        """As if computing and waiting went on side by side."""
        return max(1.0, self._computing * (_ROWS + rows) / (_ROWS + self._first))
