"""The pages of keys and values on rank 0's books: whose they are, and what they hold."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from tpi_mpi.kernels.kv_cache import PAGE

_TYPE = "i"


class Prefix:
    """A page that is full, and whose content is known: the keys and values of these tokens after those of ``before``.

    tokens: as :func:`packed`, which takes a tenth of the memory of a tuple.
    ready: whether they have been computed; else they will be, before anything of the next sweep.
    """

    def __init__(self, before: "Prefix | None", tokens: bytes, page: int):
        self.before, self.tokens, self.page = before, tokens, page
        self.after: dict[bytes, Prefix] = {}
        self.ready = False


class PagePool:
    """Counts who refers to each page, and remembers the content of full ones.

    A page that nobody refers to any more keeps its content until its room is needed, the one released first being the
    first to go. A sequence that begins like an earlier one refers to the same pages. As a rule, a sequence that refers
    to a page refers to all before it too, and releases them later, so what goes first is not needed to find what stays;
    where two have computed the same at once, some of it may no longer be found.

    pages: how many there are. share: whether content is remembered.
    """

    def __init__(self, pages: int, share: bool = True):
        self._unused = list(range(pages - 1, -1, -1))  # the lowest is taken first: high ones may never take memory
        self._references = [0] * pages
        self._content: dict[int, Prefix] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._roots: dict[int, Prefix] = {}
        self._fresh: list[Prefix] = []
        self._share = share

    @property
    def available(self) -> int:
        """Pages that can be taken."""
        return len(self._unused) + len(self._idle)

    def root(self, kind: int) -> Prefix:
        """What the first page of a sequence comes after. kind: of the rotary embedding, which keys depend on."""
        return self._roots.setdefault(kind, Prefix(None, b"", -1))

    def find(self, root: Prefix, token_ids: Sequence[int]) -> list[Prefix]:
        """The known pages with which a sequence of these tokens begins."""
        found, last = [], root
        for start in range(0, len(token_ids) - PAGE + 1, PAGE):
            last = last.after.get(packed(token_ids[start : start + PAGE]))
            if last is None:
                break
            found.append(last)
        return found

    def find_part(self, last: Prefix, token_ids: Sequence[int]) -> tuple[Prefix | None, int]:
        """The computed page after ``last`` that has the most first tokens in common with these, and how many."""
        best, most = None, 0
        for prefix in last.after.values():
            count = _common(array(_TYPE, prefix.tokens), token_ids)
            if prefix.ready and count > most:
                best, most = prefix, count
        return best, most

    def idle(self, prefixes: Sequence[Prefix]) -> int:
        """How many of these pages nobody refers to: they count as available until they are referred to."""
        return sum(prefix.page in self._idle for prefix in prefixes)

    def refer(self, prefix: Prefix) -> int:
        """Refers to a page once more; returns its number."""
        self._references[prefix.page] += 1
        self._idle.pop(prefix.page, None)
        return prefix.page

    def take(self) -> int:
        """A page for something new."""
        if self._unused:
            page = self._unused.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            self._forget(page)
        self._references[page] = 1
        return page

    def release(self, pages: Sequence[int]) -> None:
        """Gives up the pages of a sequence, in the order of its positions."""
        for page in reversed(pages):
            self._references[page] -= 1
            if self._references[page] == 0:
                if page in self._content:
                    self._idle[page] = None
                else:
                    self._unused.append(page)

    def remember(self, last: Prefix, token_ids: Sequence[int], page: int) -> Prefix:
        """Notes that a page will hold these tokens after the current sweep; returns its prefix.

        If another page holds the same, that one stays the known one.
        """
        tokens = packed(token_ids)
        known = last.after.get(tokens)
        if known is not None or not self._share:
            return known or Prefix(last, tokens, page)
        prefix = Prefix(last, tokens, page)
        last.after[tokens] = self._content[page] = prefix
        self._fresh.append(prefix)
        return prefix

    def swept(self) -> None:
        """Notes that what was to be computed has been."""
        for prefix in self._fresh:
            prefix.ready = True
        self._fresh = []

    def _forget(self, page: int) -> None:
        prefix = self._content.pop(page)
        prefix.before.after.pop(prefix.tokens, None)


def packed(token_ids: Sequence[int]) -> bytes:
    """Token ids in 32 bits each."""
    return array(_TYPE, token_ids).tobytes()


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
