"""Where a rank's time goes: seconds by activity and, for a trace, each span of time."""

import time
from collections import defaultdict

ACTIVITIES = ("fetch", "stall", "compute", "allreduce", "draft")
_DOING = {"stall": "waiting for block", "compute": "computing", "allreduce": "adding up", "draft": "drafting with"}


class Trace:
    """Adds up the time that each activity takes; with ``record``, also keeps every span.

    seconds: total seconds by activity. spans: (activity, name, start, duration). memory: (time, resident bytes).
    fetched: (time, layer, experts that were wanted, those that were not in memory).
    sweeps: on rank 0 (start, duration, rows of tokens, rows of prompts).
    Times are in seconds since ``reset``, which all ranks call at the same moment so that their spans are comparable.
    Each activity belongs to one thread, so nothing is locked.
    """

    def __init__(self, record: bool = False):
        self._record = record
        self._doing = "loading", ""
        self.reset()

    def reset(self) -> None:
        self._origin = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.spans: list[tuple[str, str, float, float]] = []
        self.memory: list[tuple[float, int]] = []
        self.fetched: list[tuple[float, int, int, int]] = []
        self.sweeps: list[tuple[float, float, int, int]] = []

    def span(self, activity: str, name: str) -> "_Span":
        """Counts the time inside the with-block towards ``activity``; ``name`` is the label in a trace."""
        return _Span(self, activity, name)

    def begin(self, activity: str, name: str) -> float:
        """Notes that a span of time begins; returns the moment."""
        if activity in _DOING:
            self._doing = activity, name
        return time.perf_counter()

    def end(self, activity: str, name: str, start: float) -> None:
        """Notes that the span of time ends that began at ``start``."""
        duration = time.perf_counter() - start
        self.seconds[activity] += duration
        if self._record:
            self.spans.append((activity, name, start - self._origin, duration))

    def sweep(self, start: float, duration: float, tokens: int, prompts: int) -> None:
        """Notes a sweep that began at a moment: its rows of tokens, and of prompts."""
        if self._record:
            self.sweeps.append((start - self._origin, duration, tokens, prompts))

    def experts(self, layer: int, wanted: int, missed: int) -> None:
        """Notes how many experts of a layer were wanted, and how many of them were not in memory."""
        if self._record:
            self.fetched.append((time.perf_counter() - self._origin, layer, wanted, missed))

    def describe(self) -> str:
        """What was begun last, apart from fetching, which runs in the background."""
        activity, name = self._doing
        return f"{_DOING[activity]} {name}" if activity in _DOING else activity

    def sample(self, resident: int) -> None:
        """Records the memory that is resident now, in bytes."""
        self.memory.append((time.perf_counter() - self._origin, resident))


class Renamed:
    """A trace in which an activity is called by another name, in the hands of whoever knows it by the first."""

    def __init__(self, trace: Trace, activity: str, name: str):
        self._trace, self._names = trace, {activity: name}

    def span(self, activity: str, name: str) -> "_Span":
        """As :meth:`Trace.span`."""
        return self._trace.span(self._names.get(activity, activity), name)


class _Span:
    """The context manager of a span. There are some for each block and token, and a generator takes twice the time."""

    __slots__ = ("_activity", "_name", "_start", "_trace")

    def __init__(self, trace: Trace, activity: str, name: str):
        self._trace, self._activity, self._name = trace, activity, name

    def __enter__(self) -> None:
        self._start = self._trace.begin(self._activity, self._name)

    def __exit__(self, *exception) -> None:
        self._trace.end(self._activity, self._name, self._start)


def trace_events(rank: int, trace: dict) -> list[dict]:
    """One rank's record in the Chrome trace-event format: one process per rank, one row per activity, curves of memory
    and of the rows of sweeps, and of each layer's experts, those that were in memory and those that were missed.

    trace: ``spans``, ``memory``, ``sweeps``, ``fetched`` of a Trace, the rank's ``host`` and ``budget``. Times become
    microseconds.
    """
    events = [_metadata(rank, "process_name", f"rank {rank} on {trace['host']}")]
    events += [_metadata(rank, "thread_name", activity, row) for row, activity in enumerate(ACTIVITIES)]
    for activity, name, start, duration in trace["spans"]:
        row = ACTIVITIES.index(activity)
        times = {"ts": round(start * 1e6, 1), "dur": round(duration * 1e6, 1)}
        events.append({"name": name, "cat": activity, "ph": "X", "pid": rank, "tid": row, **times})
    for moment, resident in trace["memory"]:
        sizes = {"resident": resident} | ({"budget": trace["budget"]} if trace["budget"] else {})
        events.append({"name": "memory", "ph": "C", "pid": rank, "ts": round(moment * 1e6, 1), "args": sizes})
    for start, duration, tokens, prompts in trace["sweeps"]:
        counts = {"tokens": tokens, "prompts": prompts}
        times = {"ts": round(start * 1e6, 1), "dur": round(duration * 1e6, 1)}
        events.append({"name": "rows", "ph": "C", "pid": rank, **times, "args": counts})
    for moment, layer, wanted, missed in trace["fetched"]:
        counts = {"present": wanted - missed, "missed": missed}
        events.append(
            {"name": "experts", "ph": "C", "pid": rank, "id": layer, "ts": round(moment * 1e6, 1), "args": counts}
        )
    return events


def _metadata(rank: int, kind: str, name: str, row: int = 0) -> dict:
    return {"name": kind, "ph": "M", "pid": rank, "tid": row, "args": {"name": name}}
