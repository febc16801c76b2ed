"""Work that threads do ahead of its use, with the results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def ahead(items: Iterator, count: int = 3) -> Iterator:
    """Yields the items; a thread produces up to ``count`` of them ahead."""
    nothing = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = deque(thread.submit(next, items, nothing) for _ in range(count))
        while (item := coming.popleft().result()) is not nothing:
            coming.append(thread.submit(next, items, nothing))
            yield item


def mapped(work: Callable, items: Iterable, threads: int) -> Iterator:
    """Yields ``work(item)`` for each item; this many threads work, each on another item."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        coming: deque = deque()
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
