"""Threads that do a with-block's work, and do not outlive it unless it failed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """So many threads for the with-block, whose end waits for what they still do.

    An error does not wait: it may be that one of them never returns.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
