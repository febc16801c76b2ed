"""Hashes of 64 bits: enough to know again what is too much to remember."""

import json
from array import array
from bisect import bisect_left

import numpy as np
import xxhash

# Hashes that are added before they are sorted in: at least so many, and at least this fraction of all.
_FEW, _FRACTION = 1 << 14, 16


def hash_of(*values: object) -> int:
    """A hash of values that JSON can hold. 1 and "1" differ. Among a million, two are alike in one case of 10^7."""
    return xxhash.xxh3_64_intdigest(json.dumps(values).encode())


class HashSet:
    """A set of hashes that takes about ten bytes for each; Python's own takes ten times as many.

    They are in a sorted array, except for those that have been added lately.
    """

    def __init__(self):
        self._sorted = array("Q")
        self._recent: set[int] = set()

    def __contains__(self, value: int) -> bool:
        if value in self._recent:
            return True
        place = bisect_left(self._sorted, value)
        return place < len(self._sorted) and self._sorted[place] == value

    def add(self, value: int) -> bool:
        """Adds a hash; returns whether it is new."""
        if value in self:
            return False
        self._recent.add(value)
        if len(self._recent) >= max(_FEW, len(self._sorted) // _FRACTION):
            self._sort()
        return True

    def _sort(self) -> None:
        self._sorted.extend(self._recent)
        self._recent = set()  # unlike clear(), this returns the memory
        np.asarray(self._sorted).sort()  # in place: the two share their memory
