"""Where a rank's time goes: seconds by activity and, for a trace, each span of time."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

ACTIVITIES = ("fetch", "stall", "compute", "allreduce")


class Timeline:
    """Adds up what each activity takes; with ``record``, keeps every span.

    Times are seconds since ``reset``, which all ranks call at the same moment so that their spans can be laid side
    by side. Each activity belongs to one thread, so nothing is locked.
    """

    def __init__(self, record: bool = False):
        self._record = record
        self.reset()

    def reset(self) -> None:
        self._origin = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.spans: list[tuple[str, str, float, float]] = []

    @contextmanager
    def span(self, activity: str, name: str) -> Iterator[None]:
        """Accounts the time inside the with-block to ``activity``; ``name`` is shown in a trace."""
        start = time.perf_counter()
        try:
            yield
        finally:
            duration = time.perf_counter() - start
            self.seconds[activity] += duration
            if self._record:
                self.spans.append((activity, name, start - self._origin, duration))


def trace_events(rank: int, spans: list[tuple[str, str, float, float]]) -> list[dict]:
    """One rank's spans in the Chrome trace-event format: a process a rank, a row an activity, microseconds."""
    named = [{"name": "process_name", "ph": "M", "pid": rank, "args": {"name": f"rank {rank}"}}]
    for row, activity in enumerate(ACTIVITIES):
        named.append({"name": "thread_name", "ph": "M", "pid": rank, "tid": row, "args": {"name": activity}})
    timed = [
        {
            "name": name,
            "cat": activity,
            "ph": "X",
            "pid": rank,
            "tid": ACTIVITIES.index(activity),
            "ts": round(start * 1e6, 1),
            "dur": round(duration * 1e6, 1),
        }
        for activity, name, start, duration in spans
    ]
    return named + timed
