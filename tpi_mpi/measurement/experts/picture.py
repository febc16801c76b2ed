"""A picture of how often experts were in memory, sweep by sweep and layer by layer."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

_COLOURS = "viridis_r"  # which are told apart in print, and by those who do not see red and green


def draw_experts(above, below, events: Sequence[Mapping], starts: Sequence[float]) -> None:
    """Of the experts that were wanted: above, the part that was missed in each layer and sweep; below, the hit rate.

    above, below: axes of a figure. events: counts of a layer's experts, of all ranks. starts: when each sweep began.
    """
    layers = sorted({event["id"] for event in events})
    present, missed = _counts(events, starts, layers)
    _draw_missed(above, present, missed, layers)
    _draw_hits(below, present.sum(axis=0), missed.sum(axis=0))
    below.sharex(above)
    below.set_xlabel("sweep")


def _counts(events: Sequence[Mapping], starts: Sequence[float], layers: Sequence[int]) -> tuple[np.ndarray, ...]:
    """How many were in memory, and how many were missed: (layers, sweeps), of all ranks together."""
    starts, rows = sorted(starts), {layer: row for row, layer in enumerate(layers)}
    counts = {name: Counter() for name in ("present", "missed")}
    for event in events:
        place = rows[event["id"]], max(0, bisect_right(starts, event["ts"]) - 1)
        for name, own in counts.items():
            own[place] += event["args"][name]
    shape = len(layers), max(sweep for _, sweep in counts["missed"]) + 1
    return tuple(_filled(own, shape) for own in counts.values())


def _filled(counts: Mapping[tuple[int, int], int], shape: tuple[int, int]) -> np.ndarray:
    array = np.zeros(shape)
    for place, count in counts.items():
        array[place] = count
    return array


def _part(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The part that some are of all; masked where there are none."""
    return np.ma.masked_invalid(
        np.divide(some, some + others, where=some + others > 0, out=np.full(some.shape, np.nan))
    )


def _draw_missed(axes, present: np.ndarray, missed: np.ndarray, layers: Sequence[int]) -> None:
    sweeps = present.shape[1]
    edges = np.arange(sweeps + 1) + 0.5  # sweeps are numbered from 1, and each layer is a row, whatever its number
    mesh = axes.pcolormesh(edges, np.arange(len(layers) + 1), _part(missed, present), cmap=_COLOURS, vmin=0, vmax=1)
    every = -(-len(layers) // 12)
    axes.set_yticks(np.arange(len(layers))[::every] + 0.5, layers[::every])
    axes.set_xlim(edges[0], edges[-1])
    axes.invert_yaxis()
    axes.set_ylabel("layer")
    axes.figure.colorbar(mesh, ax=axes, label="part of the experts missed", pad=0.01)


def _draw_hits(axes, present: np.ndarray, missed: np.ndarray) -> None:
    """The hit rate of each sweep, and of all up to then."""
    sweeps = np.arange(len(present)) + 1
    axes.plot(sweeps, _part(present, missed), label="of the sweep", linewidth=1)
    axes.plot(sweeps, _part(present.cumsum(), missed.cumsum()), label="so far", color="black", linestyle="--")
    axes.set_ylim(0, 1)
    axes.set_ylabel("hit rate")
    axes.legend(loc="lower right", ncols=2)
