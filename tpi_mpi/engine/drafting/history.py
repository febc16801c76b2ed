"""Drafts from what has been said before: a text that goes on as it once did is cheap to guess.

The idea of prompt lookup and of SuffixDecoding (arXiv 2411.04975), with the hash chains of LZ77 compressors.
"""

from collections.abc import Sequence

import numpy as np

# Tokens that are kept, at least: three numbers of 32 bits for each.
_CAPACITY = 1 << 18
# Of how many tokens there are chains, the longer first.
_LENGTHS = (5, 2)
# Places of a chain that are looked at, the latest first; and how far back they are compared.
_CANDIDATES, MOST_MATCH = 16, 16
# So many groups are added one by one, which is faster for a token or two.
_FEW = 8
# A product of 64 bits with this number mixes well: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4).
_FACTOR, _ALL_BITS = 0x9E3779B97F4A7C15, 0xFFFFFFFFFFFFFFFF
# A place that has nothing.
_NONE = -1


class History:
    """Tokens of many sequences, and where they have occurred. Memory is bounded: new sequences replace the oldest, even
    if they are not at their end: what is found is a guess anyhow.

    longest: positions of the longest sequence.
    """

    def __init__(self, longest: int):
        self._tokens = np.full(max(_CAPACITY, longest + 2), _NONE, np.int32)
        self._chains = [_Chain(length, len(self._tokens)) for length in _LENGTHS]
        self._end = 0

    def open(self, length: int) -> int:
        """Makes room for a sequence of so many tokens; returns the place of its first one."""
        if self._end + length + 1 > len(self._tokens):
            self._end = 0
        first, self._end = self._end, self._end + length + 1  # one stays empty: there the text ends
        self._tokens[first : self._end] = _NONE
        return first

    def append(self, first: int, known: int, token_ids: Sequence[int]) -> None:
        """Adds tokens to a sequence, at whose place ``first`` the ``known`` ones before them are."""
        begin, end = first + known, first + known + len(token_ids)
        self._tokens[begin:end] = token_ids
        for chain in self._chains:
            chain.add(self._tokens, max(first, begin - chain.length + 1), end)

    def find(self, first: int, token_ids: Sequence[int], count: int) -> tuple[list[int], int]:
        """Tokens that may follow a sequence, at most ``count``; and how many of its last tokens led to them.

        They are what followed where the longest of its last parts occurred the last time. first: its place.
        """
        end = first + len(token_ids)
        recent = np.array(token_ids[: -MOST_MATCH - 1 : -1], np.int32)
        for chain in self._chains:
            places = chain.places(self._tokens, end)
            if len(places) == 0:
                continue
            matches = self._matches(places, recent) * (self._tokens[places + 1] != _NONE)  # else nothing followed
            best = int(matches.argmax())
            if matches[best] >= chain.length:
                return self._following(int(places[best]), end, count), int(matches[best])
        return [], 0

    def _matches(self, places: np.ndarray, recent: np.ndarray) -> np.ndarray:
        """How many tokens up to each place are the recent ones, of which the latest comes first."""
        at = places[:, None] - np.arange(len(recent))
        same = (self._tokens[at] == recent) & (at >= 0)
        return same.cumprod(axis=1).sum(axis=1)

    def _following(self, place: int, end: int, count: int) -> list[int]:
        """What followed a place. At the end of what is known, it goes on as it did from the place on."""
        found = self._tokens[place + 1 : place + 1 + count]
        known = found[: int((found == _NONE).argmax())] if (found == _NONE).any() else found
        if place + 1 + len(known) == end:
            known = np.resize(known, count)
        return known.tolist()


class _Chain:
    """Where groups of so many tokens with the same hash have occurred, the latest first."""

    def __init__(self, length: int, capacity: int):
        self.length = length
        self._latest = np.full(capacity // 4, _NONE, np.int32)
        self._before = np.full(capacity, _NONE, np.int32)

    def add(self, tokens: np.ndarray, begin: int, end: int) -> None:
        """Adds the groups that lie in tokens[begin:end], by the place of their last token."""
        first = begin + self.length - 1
        if end - first <= _FEW:
            for place in range(first, end):
                own = self._hash(tokens[place - self.length + 1 : place + 1].tolist())
                self._before[place], self._latest[own] = self._latest[own], place
            return
        places = np.arange(first, end)
        hashes = self._hash([tokens[first - back : end - back].astype(np.uint64) for back in range(self.length)][::-1])
        order = hashes.argsort(kind="stable")
        places, hashes = places[order], hashes[order]
        again = np.concatenate([[False], hashes[1:] == hashes[:-1]])
        self._before[places] = np.where(again, np.roll(places, 1), self._latest[hashes])
        self._latest[hashes] = places  # of the same hash, the last one stays

    def places(self, tokens: np.ndarray, end: int) -> np.ndarray:
        """Earlier places that may have the group that ends before ``end``, which has been added."""
        found, place = [], end - 1
        while len(found) < _CANDIDATES and (place := int(self._before[place])) not in (_NONE, end - 1):
            found.append(place)
        return np.array(found, np.int64)

    def _hash(self, group: Sequence):
        """A place in the table for a group of tokens: whole numbers, or arrays of uint64 with one for each group."""
        value = group[0] * 0
        for token in group:
            value = (value * _FACTOR + token) & _ALL_BITS
            value = value ^ (value >> 29)
        return ((value * _FACTOR & _ALL_BITS) >> 40) % len(self._latest)
